//! The report, in a real browser.

use crate::common::browser::Browser;
use crate::common::files;
use crate::common::skip;

use serde_json::json;
use stepback_native::results::{Record, record, report};

fn outputs(id: &str) -> Record {
    let records = record::from_outputs(id, &files::path("records/reference/outputs"));
    records.unwrap().remove(0)
}

#[test]
fn the_file_is_small_self_contained_and_escaped() {
    let vit = record::read_csv(&files::path("records/cifar10_vit.csv")).unwrap();
    let html = report::html(&vit, "val_score", None).unwrap();
    assert!(html.len() < 3_000_000, "{} bytes", html.len());
    let mut evil = outputs("mnist_mlp-2");
    evil.name = "</script><script>alert(1)</script>".into();
    evil.settings[0].options[0].1 = "<img src=x onerror=alert(1)>".into();
    let html = report::html(&[evil], "val_score", None).unwrap();
    assert_eq!(html.matches("</script>").count(), 2);
    assert!(!html.contains("<img"));
    for address in ["http://", "https://"] {
        let others = html.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !others.contains(address),
            "the report points to the network"
        );
    }
}

#[test]
fn names_do_not_take_the_page_apart() {
    let mut odd = outputs("mnist_mlp-2");
    odd.name = "{{DATA}} {{TITLE}} ' \" \u{1b}".into();
    let html = report::html(std::slice::from_ref(&odd), "val_score", None).unwrap();
    // In the title, the first heading and the section's heading; the command that made it is the test's.
    let shown = "{{DATA}} {{TITLE}} &#39; &quot; \\u{1b}";
    assert_eq!(html.matches(shown).count(), 3);
    assert_eq!(html.matches("<script id=").count(), 1);
    assert!(!html.contains('\u{1b}'));
}

#[test]
fn tables_need_no_scripts() {
    let record = outputs("mnist_mlp-2");
    let html = report::html(std::slice::from_ref(&record), "val_score", None).unwrap();
    let (page, _) = html.split_once("<script").unwrap();
    for part in [
        "<h2>mnist_mlp-2</h2>",
        "<td><b>",
        "<summary>Runs (",
        "drawn by scripts",
    ] {
        assert!(page.contains(part), "no {part} before the scripts");
    }
    for method in record.methods() {
        assert!(
            page.contains(&format!("<td>{method}</td>")),
            "no {method} before the scripts"
        );
    }
}

/// Thirteen methods with two seeds each over many epochs.
fn long(epochs: usize) -> Record {
    let dir = tempfile::tempdir().unwrap();
    let mut csv = "id,epoch,train_loss,val_score,train_loss_std,val_score_std,name,lr\n".to_owned();
    for (nth, row) in stepback_native::optim::ROWS.iter().enumerate() {
        let name = row.entry.name;
        for epoch in 0..epochs {
            let loss = 0.01 * nth as f64 + 1.0 / (epoch + 1) as f64;
            csv += &format!(
                "name={name}:lr=0.1,{epoch},{loss},{},0.01,0.01,{name},0.1\n",
                1.0 - loss / 2.0
            );
        }
    }
    let path = dir.path().join("long.csv");
    std::fs::write(&path, csv).unwrap();
    record::read_csv(&path).unwrap().remove(0)
}

#[test]
fn it_works_in_a_browser() {
    let dir = tempfile::tempdir().unwrap();
    let Some(browser) = Browser::start(&dir.path().join("profile")) else {
        return skip::skip(
            "it_works_in_a_browser",
            "no chromedriver (Debian: chromium, chromium-driver)",
        );
    };
    let page = dir.path().join("report.html");
    let mut records = [outputs("synthetic_small"), outputs("mnist_mlp-2")];
    for setting in &mut records[1].settings {
        for run in &mut setting.runs {
            let losses = (0..5000).map(|step| (10 * step, 1.0 / (step + 1) as f64));
            run.step_logs = vec![("loss".into(), losses.collect())];
        }
    }
    std::fs::write(&page, report::html(&records, "val_score", None).unwrap()).unwrap();
    browser.open(&format!("file://{}", page.display()));
    let number = |script: &str| {
        browser
            .script(&format!("return {script}"))
            .as_u64()
            .unwrap()
    };
    assert_eq!(number("document.querySelectorAll('section').length"), 2);
    assert_eq!(number("document.querySelectorAll('figure svg').length"), 6);
    assert_eq!(
        number("document.querySelectorAll('section:last-of-type details table tr').length"),
        49
    );
    // The best of the table is bold, and nothing among the runs.
    assert_eq!(
        number("document.querySelectorAll('section:last-of-type b').length"),
        1
    );
    let lines =
        "document.querySelectorAll('section:last-of-type figure:first-of-type svg path').length";
    let both = number(lines);
    browser.script("document.querySelector('section:last-of-type input.method').click()");
    assert!(number(lines) < both, "the toggle removes a method");
    let label =
        "return document.querySelector('section:last-of-type svg').getAttribute('aria-label')";
    assert_eq!(browser.script(label), "Validation accuracy (%)");
    browser.script(
        "const s = document.querySelector('section:last-of-type select'); s.value = 'train_loss'; \
         s.dispatchEvent(new Event('change'))",
    );
    assert_eq!(browser.script(label), "Training loss");
    assert_eq!(
        browser.script("return document.querySelector('section:last-of-type input.log').checked"),
        true
    );
    let tip = browser.script(
        "const p = document.querySelector('section:last-of-type svg polygon').getBoundingClientRect(); \
         document.querySelector('section:last-of-type svg').dispatchEvent(new MouseEvent('mousemove', \
         {clientX: p.x + p.width / 2, clientY: p.y + p.height / 2})); \
         return document.getElementById('tip').textContent",
    );
    assert!(tip.as_str().unwrap().contains("Training loss: "), "{tip}");
    assert_eq!(number("document.querySelectorAll('.noscript').length"), 0);
    // The data behind the link is the whole embedded JSON.
    let link = "return fetch(document.getElementById('raw').href).then(r => r.json()).then(d => d.experiments.length)";
    assert_eq!(browser.script(link), 2);

    // Which setting is best does not depend on what is shown: by score here, so that others may have lower losses.
    let caption = "return document.querySelector('section:last-of-type figcaption').textContent";
    let caption = browser.script(caption);
    assert!(
        caption.as_str().unwrap().contains("by Validation accuracy"),
        "{caption}"
    );
    assert!(number("document.querySelectorAll('nav a').length") == 2);
    assert!(number("document.querySelectorAll('nav ~ div table tbody tr').length") == 2);
    let made = browser.script("return document.querySelector('footer').textContent");
    assert!(made.as_str().unwrap().contains("stepback-native"), "{made}");

    // A table is sorted by the column that is clicked, and back.
    let column = "[...document.querySelectorAll('section:last-of-type details table tbody tr')].map(r => parseFloat(r.cells[2].textContent))";
    let click = "document.querySelector('section:last-of-type details table').tHead.rows[0].cells[2].click();";
    let sorted = |order: &str| {
        let check = format!(
            "{click} const c = {column}.filter(x => !isNaN(x)); return c.length > 9 && c.every((x, i) => i === 0 || c[i - 1] {order} x)"
        );
        assert_eq!(browser.script(&check), true, "{order}");
    };
    sorted("<=");
    sorted(">=");

    // Another setting's curve is added, dashed.
    let dashed = "document.querySelectorAll('section:last-of-type figure:first-of-type path[stroke-dasharray]').length";
    assert_eq!(number(dashed), 0);
    let second = "const e = data.experiments[1], method = e.methods[1].name; \
                  const boxes = [...document.querySelectorAll('section:last-of-type input.setting')]; \
                  e.settings.forEach((s, i) => s.method === method && boxes[i].click())";
    browser.script(second);
    assert!(number(dashed) > 0);

    // Dragging over a part of the axis shows it alone, in the data that are saved as well; a double click shows all.
    let first = "document.querySelector('section:first-of-type figure')";
    let shown = format!("{first}.querySelectorAll('svg polygon').length");
    let all = number(&shown);
    let drag = format!(
        "const svg = {first}.querySelector('svg'), box = svg.getBoundingClientRect(); \
         const at = (type, part) => svg.dispatchEvent(new MouseEvent(type, {{bubbles: true, clientX: box.x + part * box.width, clientY: box.y + box.height / 2}})); \
         at('mousedown', 0.3); at('mousemove', 0.5); at('mouseup', 0.6)"
    );
    browser.script(&drag);
    let zoomed = browser.script(&format!("return {first}.zoom"));
    let [low, high] = [0, 1].map(|i| zoomed[i].as_f64().unwrap());
    assert!(0.0 < low && low < high && high < 49.0, "{zoomed}");
    assert!(number(&shown) > 0);
    browser.script(&format!(
        "{first}.querySelector('svg').dispatchEvent(new MouseEvent('dblclick', {{bubbles: true}}))"
    ));
    assert_eq!(number(&shown), all);
    let rows = number(&format!("table({first}.chart).trim().split('\\n').length"));
    let points = number(&format!(
        "{first}.chart.series.reduce((n, s) => n + s.points.length, 0)"
    ));
    assert_eq!(rows, points + 1);
    let svg = browser.script(&format!("return image({first}.querySelector('svg'))"));
    assert!(
        svg.as_str().unwrap().starts_with("<svg ") && !svg.as_str().unwrap().contains("var("),
        "{svg}"
    );

    // What diverged is outside of the scale, at its bad end, and joined to the points by a dotted line.
    for (top, beyond) in [
        (false, "cross.y > p.y + p.height"),
        (true, "cross.y + cross.height < p.y"),
    ] {
        let outside = format!(
            "const host = el(document.body, 'figure'), marker = [[1, 1], [1, -1], [-1, 0]]; \
             plot(host, {{x: '', xkind: 'log', y: '', ylog: false, top: {top}, series: [{{name: 'a', colour: '#000000', marker, \
                points: [[1, 5, 5, 5], [10, 7, 7, 7]], crosses: [[100]]}}]}}); \
             const box = node => node.getBBox(), cross = box(host.querySelector('.cross')), joint = box(host.querySelector('.joint')); \
             const points = [...host.querySelectorAll('polygon')].map(box), last = points[1]; \
             const joined = joint.x < last.x + last.width && joint.x + joint.width > cross.x; host.remove(); \
             return points.length === 2 && joined && points.every(p => {beyond})"
        );
        assert_eq!(browser.script(&outside), true, "top: {top}");
    }

    // Long curves are thinned out on the screen alone, and no name breaks the figures.
    let mut odd = outputs("mnist_mlp-2");
    for (setting, name) in
        odd.settings
            .iter_mut()
            .zip(["constructor", "</script><b>", "a\u{1b}\n{{DATA}}"])
    {
        setting.options[0].1 = name.into();
    }
    std::fs::write(
        &page,
        report::html(&[long(10_000), odd], "val_score", None).unwrap(),
    )
    .unwrap();
    browser.open(&format!("file://{}", page.display()));
    let line = "Math.max(...[...document.querySelectorAll('section:first-of-type svg path')].map(p => \
                p.getAttribute('d').split('L').length))";
    assert!(
        (100..4000).contains(&number(line)),
        "{} points",
        number(line)
    );
    assert!(
        number(
            "document.querySelectorAll('section:first-of-type figure:first-of-type path').length"
        ) == 2 * stepback_native::optim::ROWS.len() as u64
    );
    assert!(
        number(
            "document.querySelectorAll('section:last-of-type figure:first-of-type path').length"
        ) > 0
    );
    assert_eq!(
        number("data.experiments[0].settings[0].curves.val_score.mean.length"),
        10_000
    );
    let ticks = browser.script(
        "return [...document.querySelectorAll('section:first-of-type svg text')].map(t => t.textContent)",
    );
    assert!(
        ticks.as_array().unwrap().contains(&json!("10000")),
        "{ticks}"
    );
    let log = browser.post("se/log", json!({"type": "browser"}));
    assert_eq!(log, json!([]), "the console has messages");
}
