//! A history of concurrent calls, and whether it is linearizable.
//!
//! The search is that of the crate `todc-utils`: the algorithm of Wing and Gong (1993) with the memoization of Lowe (2017), as Knossos
//! and Porcupine do it. It depends on nothing, is tested with histories that Jepsen recorded of etcd, and is used as it is. The other
//! crate with a tester, `stateright`, searches without memoization and brings a web server.

use std::fmt;
use std::sync::{Mutex, MutexGuard};

use todc_utils::{Action, History, Specification, WGLChecker};

/// Records calls as they are made and answered.
pub struct Recorder<S: Specification>(Mutex<Calls<S::Operation>>);

#[derive(Clone)]
struct Calls<O> {
    /// In order of time: a call by its number, or its return.
    events: Vec<Event>,
    /// What was called and answered; none while the call is under way, and when it changed nothing.
    operations: Vec<Option<O>>,
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

impl<S: Specification> Recorder<S> {
    pub fn new() -> Self {
        Self(Mutex::new(Calls { events: Vec::new(), operations: Vec::new() }))
    }

    /// The same history, which goes on apart.
    pub fn copy(&self) -> Self {
        Self(Mutex::new(self.calls().clone()))
    }

    fn calls(&self) -> MutexGuard<'_, Calls<S::Operation>> {
        self.0.lock().unwrap()
    }

    /// A call begins. It counts once something is recorded of how it ended.
    pub fn call(&self) -> usize {
        let mut calls = self.calls();
        let call = calls.operations.len();
        calls.operations.push(None);
        calls.events.push(Event::Call(call));
        call
    }

    /// A call has had its effect.
    pub fn returned(&self, call: usize, operation: S::Operation) {
        let mut calls = self.calls();
        calls.operations[call] = Some(operation);
        calls.events.push(Event::Return(call));
    }

    /// A call has its effect at any time from its beginning on: that it has had it already is not known.
    pub fn pending(&self, call: usize, operation: S::Operation) {
        self.calls().operations[call] = Some(operation);
    }

    /// Calls that returned, and calls that are pending.
    pub fn counts(&self) -> (usize, usize) {
        let calls = self.calls();
        let returned = calls.events.iter().filter(|event| matches!(event, Event::Return(_))).count();
        (returned, calls.operations.iter().flatten().count() - returned)
    }

    /// Every call is of a process of its own, and what is pending returns at the end.
    fn actions(&self) -> Vec<(usize, Action<S::Operation>)> {
        let calls = self.calls();
        let mut actions = Vec::new();
        let mut pending = Vec::new();
        for event in &calls.events {
            let (Event::Call(call) | Event::Return(call)) = *event;
            let Some(operation) = &calls.operations[call] else { continue };
            if matches!(event, Event::Call(_)) {
                pending.push(call);
                actions.push((call, Action::Call(operation.clone())));
            } else {
                pending.retain(|other| *other != call);
                actions.push((call, Action::Response(operation.clone())));
            }
        }
        let at_the_end = pending
            .into_iter()
            .filter_map(|call| Some((call, Action::Response(calls.operations[call].clone()?))));
        actions.extend(at_the_end);
        actions
    }

    pub fn is_linearizable(&self) -> bool {
        WGLChecker::<S>::is_linearizable(History::from_actions(self.actions()))
    }
}

impl<S: Specification> fmt::Debug for Recorder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.actions().iter().try_for_each(|(call, action)| writeln!(f, "{call:>5} {action:?}"))
    }
}
