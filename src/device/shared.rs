//! A device that several runs share. What their machines are to run next is run as one: on a GPU, side by side.

use std::collections::{BTreeMap, VecDeque};
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::machine::{Backend, Machine};
use super::program::Call;
use super::{PlannedLaunches, Target};
use crate::error::{Error, Result};

/// Gives out machines, whose buffers and programs are their own.
#[derive(Clone)]
pub struct SharedDevice(Arc<Inner>);

struct Inner {
    target: Target,
    state: Mutex<State>,
    /// Told whenever something was run.
    changed: Condvar,
}

struct State {
    backend: Box<dyn Backend>,
    /// Of each machine that is there, the programs that it has yet to run.
    waiting: BTreeMap<usize, VecDeque<usize>>,
    /// Machines that there have been.
    machines: usize,
    rounds: usize,
    /// After which nothing is run.
    fault: Option<Error>,
}

impl SharedDevice {
    /// The device of a machine that holds nothing yet.
    pub fn new(machine: Machine) -> SharedDevice {
        let (backend, target) = machine.into_backend();
        SharedDevice(Arc::new(Inner {
            target,
            state: Mutex::new(State {
                backend,
                waiting: BTreeMap::new(),
                machines: 0,
                rounds: 0,
                fault: None,
            }),
            changed: Condvar::new(),
        }))
    }

    /// One more machine. As long as it is there, the others wait for what it is to run next; what they hold is given back
    /// when it goes.
    pub fn machine(&self) -> Machine {
        let mut state = self.0.lock();
        let number = state.machines;
        state.machines += 1;
        state.waiting.insert(number, VecDeque::new());
        let seat = Seat {
            device: Arc::clone(&self.0),
            number,
            memory: Vec::new(),
            programs: Vec::new(),
        };
        Machine::on(Box::new(seat), self.0.target)
    }

    /// How often programs were run, those that ran as one counted once.
    pub fn rounds(&self) -> usize {
        self.0.lock().rounds
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what every machine has to run next, as long as all have something.
    fn advance(&self, state: &mut State) {
        while state.fault.is_none() && !state.waiting.is_empty() {
            if state.waiting.values().any(VecDeque::is_empty) {
                break;
            }
            let next = state.waiting.values_mut().filter_map(VecDeque::pop_front);
            let next: Vec<usize> = next.collect();
            state.rounds += 1;
            state.fault = state.backend.run_together(&next).err();
        }
        self.changed.notify_all();
    }
}

impl State {
    fn check(&self) -> Result<()> {
        self.fault.clone().map_or(Ok(()), Err)
    }
}

/// What a machine has of a shared device.
struct Seat {
    device: Arc<Inner>,
    number: usize,
    memory: Vec<u64>,
    programs: Vec<usize>,
}

impl Seat {
    /// The device, once all of this machine's programs were run.
    fn settled(&self) -> Result<MutexGuard<'_, State>> {
        let waits = |state: &mut State| {
            let programs = &state.waiting[&self.number];
            state.fault.is_none() && !programs.is_empty()
        };
        let state = self.device.changed.wait_while(self.device.lock(), waits);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.check()?;
        Ok(state)
    }
}

impl Backend for Seat {
    fn name(&self) -> String {
        self.device.lock().backend.name()
    }

    fn alloc(&mut self, name: &str, bytes: usize) -> Result<Option<u64>> {
        let address = self.device.lock().backend.alloc(name, bytes)?;
        self.memory.extend(address);
        Ok(address)
    }

    fn memory(&self) -> Option<[usize; 2]> {
        self.device.lock().backend.memory()
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.settled()?.backend.upload(address, bytes)
    }

    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.settled()?.backend.download(address, bytes)
    }

    fn prepare(&mut self, calls: Vec<Call>, addresses: &[u64]) -> Result<usize> {
        let program = self.device.lock().backend.prepare(calls, addresses)?;
        self.programs.push(program);
        Ok(self.programs.len() - 1)
    }

    fn run(&mut self, program: usize) -> Result<()> {
        let mut state = self.device.lock();
        let waiting = state.waiting.get_mut(&self.number);
        waiting
            .expect("a machine that is there")
            .push_back(self.programs[program]);
        self.device.advance(&mut state);
        state.check()
    }

    fn time(&mut self, programs: &[usize], times: usize) -> Result<f64> {
        let programs: Vec<usize> = programs.iter().map(|p| self.programs[*p]).collect();
        self.settled()?.backend.time(&programs, times)
    }

    fn planned(&self, program: usize) -> Option<PlannedLaunches> {
        self.device.lock().backend.planned(self.programs[program])
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.device.lock();
        state.waiting.remove(&self.number);
        (state.backend).release(&take(&mut self.memory), &take(&mut self.programs));
        self.device.advance(&mut state);
    }
}
