//! The roles, each started by itself: `memgate up` would wait longer after each crash until it starts one again.

use std::fs::File;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Installation, deadline_in, wait_until};

/// A role that is started again whenever it ends. Stopped when dropped.
pub(super) struct Role {
    state: Arc<Mutex<State>>,
    keeper: Option<JoinHandle<()>>,
}

struct State {
    process: Pid,
    is_stopping: bool,
}

impl Role {
    /// Starts a role, and waits until its health endpoint answers. `settings`: environment variables.
    pub(super) fn start(installation: &Installation, name: &str, settings: &[(&str, &str)]) -> Self {
        let log = File::options().create(true).append(true).open(installation.log()).unwrap();
        let mut command = installation.memgate(&[name]);
        command.envs(settings.iter().copied()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let state = Arc::new(Mutex::new(State { process: pid(&child), is_stopping: false }));
        let keeper = Some(keep_running(command, child, Arc::clone(&state)));
        let role = Self { state, keeper };
        wait_until(deadline_in(60), name, || {
            std::net::TcpStream::connect(installation.role_health(name)).is_ok()
        });
        role
    }

    /// The process that runs now.
    pub(super) fn process(&self) -> Pid {
        self.state.lock().unwrap().process
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        state.is_stopping = true;
        let _ = kill_process(state.process, Signal::TERM);
        drop(state);
        let _ = self.keeper.take().map(JoinHandle::join);
    }
}

fn keep_running(mut command: Command, mut child: Child, state: Arc<Mutex<State>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        loop {
            let _ = child.wait();
            let mut state = state.lock().unwrap();
            if state.is_stopping {
                return;
            }
            child = command.spawn().unwrap();
            state.process = pid(&child);
        }
    })
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).unwrap()
}
