//! Groups of parameters with hyper-parameters, or a method, of their own.
//!
//! A config's `groups` says which parameters each takes and what differs from `opt`; the first that matches a parameter
//! takes it. Those that none matches are the last group, to which all of `opt` applies.
//!
//! Some methods are for matrices ([`Row::rest`]). Behind the config's groups they have one more, of what no group has taken
//! and is no matrix between two layers: vectors, embeddings, the layer that gives a network's outputs. Another method
//! updates it, and any group of the config that names this one; its values are those keys of `opt` that begin with `aux_`.

use std::ops::RangeInclusive;

use regex::Regex;
use serde_json::{Map, Value};

use super::{AnyMethod, COMMON_KEYS, LR, Reports, Row, WEIGHT_DECAY, row, rows};
use crate::config::{Key, Kind, Values, canonical, nearest, suggestion};
use crate::error::{Error, Result};
use crate::graph::{Role, Tensor};

const MATCH: Key = Key {
    name: "match",
    kind: Kind::Checked(
        "a regular expression, a role such as \"role==bias\", or a condition such as \"ndim>=2\"",
        Value::is_string,
    ),
    default: None,
    about: "which parameters it takes",
};

const LR_FACTOR: Key = Key {
    name: "lr_factor",
    kind: Kind::NonNegative,
    default: Some("1"),
    about: "what its learning rate is of the one in `opt`; in place of `lr`",
};

const NAME: Key = Key {
    name: "name",
    kind: Kind::Checked("a name", Value::is_string),
    default: Some("null"),
    about: "another method, whose own keys start from its defaults",
};

/// The keys that a group has beside those of its method.
pub const GROUP_KEYS: &[Key] = &[MATCH, NAME, LR, LR_FACTOR, WEIGHT_DECAY];

/// What names of keys begin with that are for the method of [`Row::rest`].
pub const AUX: &str = "aux_";

/// Which parameters a group takes.
#[derive(Clone, Debug)]
pub enum Match {
    /// Those in whose name it is found.
    Name(Regex),
    /// Those with this many dimensions.
    Dimensions(RangeInclusive<usize>),
    Role(Role),
}

impl Match {
    /// A role (`role==bias`, or the word alone), `ndim==1`, `ndim>=2`, `ndim<=1`, or else a regular expression.
    ///
    /// # Errors
    /// What is wrong, and where in a regular expression.
    pub fn parse(text: &str) -> std::result::Result<Match, String> {
        let names = Role::ALL.map(Role::name);
        let role = |name: &str| Role::ALL.into_iter().find(|role| role.name() == name);
        if let Some(role) = role(text) {
            return Ok(Match::Role(role));
        }
        if let Some(name) = text.strip_prefix("role==") {
            let hint = suggestion(name, &names);
            return role(name)
                .map(Match::Role)
                .ok_or_else(|| format!("unknown role {name:?} {hint}"));
        }
        if let Some(rest) = text.strip_prefix("ndim") {
            let number = |sign| rest.strip_prefix(sign)?.parse::<usize>().ok();
            let range = match (number("=="), number(">="), number("<=")) {
                (Some(n), ..) => n..=n,
                (_, Some(n), _) => n..=usize::MAX,
                (.., Some(n)) => 0..=n,
                _ => {
                    return Err(format!(
                        "wrong condition {text:?} (expected ndim==N, ndim>=N or ndim<=N)"
                    ));
                }
            };
            return Ok(Match::Dimensions(range));
        }
        Regex::new(text).map(Match::Name).map_err(|error| {
            let (what, at) = match regex_syntax::parse(text) {
                Err(regex_syntax::Error::Parse(e)) => (e.kind().to_string(), e.span().start),
                Err(regex_syntax::Error::Translate(e)) => (e.kind().to_string(), e.span().start),
                _ => return format!("{text:?} is not a regular expression: {error}"),
            };
            let (at, rest) = (at.column, &text[at.offset..]);
            let place = match rest {
                "" => "at its end".to_owned(),
                _ => format!("at character {at}, {rest:?}"),
            };
            format!("{text:?} is not a regular expression: {what} {place}")
        })
    }

    pub fn takes(&self, tensor: &Tensor) -> bool {
        match self {
            Match::Name(regex) => regex.is_match(&tensor.name),
            Match::Dimensions(range) => range.contains(&tensor.shape.len()),
            Match::Role(role) => tensor.role == *role,
        }
    }
}

/// A group before it is known which parameters it has.
pub(super) struct Group {
    takes: Takes,
    /// Its method's name in the table.
    pub name: &'static str,
    /// See [`Row::rest`].
    rest: Option<&'static str>,
    pub method: Box<dyn AnyMethod>,
    pub reports: Reports,
    /// The method's own keys, written such that equal ones are the same.
    own_keys: String,
    /// Its initial learning rate, if it has one of its own.
    pub lr: Option<f64>,
}

/// Of the parameters that groups before it have left.
enum Takes {
    /// The config's text and what it means.
    Matched(String, Match),
    /// All that a method for matrices leaves to another one.
    NoMatrices,
    All,
}

impl Takes {
    fn takes(&self, tensor: &Tensor) -> bool {
        match self {
            Takes::Matched(_, matches) => matches.takes(tensor),
            Takes::NoMatrices => tensor.shape.len() < 2 || tensor.role != Role::Hidden,
            Takes::All => true,
        }
    }
}

/// The groups of a run in the config's order, the rest behind them. Objects were checked against the tables.
pub(super) fn all(opt: &Map<String, Value>, groups: &[Map<String, Value>]) -> Result<Vec<Group>> {
    let mut all = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        let place = |text: String| Error::usage(format!("groups[{i}]{text}"));
        let Some(text) = group.get("match").and_then(Value::as_str) else {
            return Err(place(": no match".into()));
        };
        let matches = Match::parse(text).map_err(|why| place(format!(".match: {why}")))?;
        all.push(Group::new(
            opt,
            group,
            Takes::Matched(text.to_owned(), matches),
        )?);
    }
    let last = Group::new(opt, &Map::new(), Takes::All)?;
    if let Some(rest) = last.rest {
        let named = Map::from_iter([("name".to_owned(), rest.into())]);
        all.push(Group::new(opt, &named, Takes::NoMatrices)?);
    }
    all.push(last);
    Ok(all)
}

impl Group {
    /// All parameters, with a method that need not be in the table.
    pub fn rest(method: Box<dyn AnyMethod>, reports: Reports) -> Group {
        Group {
            takes: Takes::All,
            name: "",
            rest: None,
            method,
            reports,
            own_keys: String::new(),
            lr: None,
        }
    }

    fn new(opt: &Map<String, Value>, group: &Map<String, Value>, takes: Takes) -> Result<Group> {
        let name = |map: &Map<String, Value>| {
            let name = map.get("name").and_then(Value::as_str).map(str::to_owned);
            name.unwrap_or_default()
        };
        let base = known(&name(opt))?;
        let row = match group.contains_key("name") {
            true => known(&name(group))?,
            false => base,
        };
        let mut all = opt.clone();
        if row.entry.name != base.entry.name {
            // Another method's own keys start from its own defaults.
            all.retain(|key, _| COMMON_KEYS.iter().any(|common| common.name == key));
        }
        let is_rest = base.rest == Some(row.entry.name);
        if is_rest {
            all.extend(aux(base, opt));
        }
        all.extend(group.clone());
        let values = Values::new(row.entry.keys.iter().chain(COMMON_KEYS), &all);
        let factor = group.get("lr_factor").and_then(Value::as_f64);
        let lr = match factor {
            Some(factor) => Some(factor * values.real("lr")),
            None => (is_rest || group.contains_key("lr")).then(|| values.real("lr")),
        };
        // Files may have those of every group among theirs.
        let own = |key: &&Key| GROUP_KEYS.iter().all(|common| common.name != key.name);
        let own_keys = row.entry.keys.iter().filter(own);
        let own_keys = own_keys.map(|key| (key.name.to_owned(), values.get(key.name)));
        Ok(Group {
            takes,
            name: row.entry.name,
            rest: row.rest,
            method: (row.build)(&values),
            reports: row.reports,
            own_keys: canonical(&Value::Object(own_keys.collect())),
            lr,
        })
    }
}

fn known(name: &str) -> Result<&'static Row> {
    row(name).ok_or_else(|| {
        let known: Vec<_> = rows().map(|row| row.entry.name).collect();
        let hint = suggestion(name, &known);
        Error::usage(format!("unknown optimizer {name:?} {hint}"))
    })
}

/// What `opt` says, or else this row, to the method of [`Row::rest`].
fn aux(row: &Row, opt: &Map<String, Value>) -> Map<String, Value> {
    let values = Values::new(row.entry.keys, opt);
    let keys = row.entry.keys.iter().filter_map(|key| {
        let own = key.name.strip_prefix(AUX)?;
        Some((own.to_owned(), values.get(key.name)))
    });
    keys.collect()
}

/// The groups whose updates are one: all of a method that joins them, any other alone. Groups by their places.
pub(super) fn parts(groups: &[Group]) -> Result<Vec<Vec<usize>>> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        let name = group.name;
        let joins =
            |part: &&mut Vec<usize>| group.method.joins_groups() && groups[part[0]].name == name;
        let Some(part) = parts.iter_mut().find(joins) else {
            parts.push(vec![i]);
            continue;
        };
        if groups[part[0]].own_keys != group.own_keys {
            // The rest has what all have.
            let other = match group.takes {
                Takes::Matched(..) => i,
                _ => part[0],
            };
            return Err(Error::usage(format!(
                "groups[{other}]: all groups of {name} share its sums, so that they differ in lr, lr_factor and weight_decay alone"
            )));
        }
        part.push(i);
    }
    Ok(parts)
}

/// The places in `tensors` of each group's parameters.
///
/// # Errors
/// If a group has none, or the groups leave none to the method that the run is named after.
pub(super) fn assign(groups: &[Group], tensors: &[Tensor]) -> Result<Vec<Vec<usize>>> {
    let mut members = vec![Vec::new(); groups.len()];
    for (i, tensor) in tensors.iter().enumerate() {
        let group = groups.iter().position(|group| group.takes.takes(tensor));
        members[group.expect("the last one takes all")].push(i);
    }
    for (i, (group, members)) in groups.iter().zip(&members).enumerate() {
        let Takes::Matched(text, matches) = &group.takes else {
            continue;
        };
        if members.is_empty() {
            let hint = match tensors.iter().any(|tensor| matches.takes(tensor)) {
                true => "groups before it take all that it matches".to_owned(),
                false => unmatched(text, tensors),
            };
            return Err(Error::usage(format!(
                "groups[{i}].match: {text:?} takes no parameter ({hint}; `list models NAME` shows a model's)"
            )));
        }
        let vector = members.iter().find(|i| tensors[**i].shape.len() < 2);
        if let (Some(rest), Some(vector)) = (group.rest, vector) {
            let (method, vector) = (group.name, &tensors[*vector].name);
            return Err(Error::usage(format!(
                "groups[{i}]: {method} is for matrices, and {vector} is none (match less, or give the group the name {rest:?})"
            )));
        }
    }
    let last = groups.last().expect("the rest");
    let method = last.name;
    let mut own = groups.iter().zip(&members);
    if !own.any(|(group, members)| group.name == method && !members.is_empty()) {
        if last.rest.is_some() && groups.len() == 2 {
            return Err(Error::usage(format!(
                "{method} is for matrices between two layers, of which the model has none (name another method)"
            )));
        }
        return Err(Error::usage(format!(
            "groups: they leave no parameter to {method} (name the method that all have in opt)"
        )));
    }
    Ok(members)
}

/// What may have been meant by a text that matches nothing.
fn unmatched(text: &str, tensors: &[Tensor]) -> String {
    let names = || tensors.iter().map(|tensor| &tensor.name[..]);
    let roles = Role::ALL.map(Role::name).into_iter();
    let others = roles.chain(names()).filter(|name| *name != text);
    match nearest(text, others) {
        Some(near) => format!("did you mean {near:?}?"),
        None => {
            let first: Vec<&str> = names().take(3).collect();
            format!("the first are {}", first.join(", "))
        }
    }
}
