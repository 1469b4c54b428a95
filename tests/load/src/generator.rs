//! The load generator: one thread, one poller, no allocation per request, and one write for everything that a
//! connection may send at a time.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::cpu::{self, Cpu};
use crate::error::LoadError;
use crate::outcome::{Counters, Outcome};
use crate::preload;
use crate::session::{Expected, Pending, Session};
use crate::wire::{Op, Wire};
use crate::workload::{Endpoint, Workload};

/// Bytes of the buffer that replies are read into.
const SCRATCH: usize = 256 * 1024;
const EVENTS: usize = 512;
/// A run without any reply for this long is invalid.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The poller waits this long at most, so that the clock is checked.
const POLL_TIMEOUT: Duration = Duration::from_millis(20);

struct Generator<'a> {
    workload: &'a Workload,
    keys: usize,
    wire: Wire,
    endpoints: Vec<Endpoint>,
    poller: OwnedFd,
    sessions: Vec<Session>,
    scratch: Vec<u8>,
    rng: Rng,
    start: Instant,
    counters: Counters,
    schedule: Option<Schedule>,
}

/// The schedule of an open loop: request `n` is due at `n * interval` nanoseconds, on connection `n` modulo
/// their number.
struct Schedule {
    interval: f64,
    next: u64,
    /// Connections with requests that became due in this iteration.
    touched: Vec<usize>,
}

/// The start of the measurement, and the CPU time used until then.
struct Baseline {
    at: u64,
    generator_cpu: f64,
    watched_cpu: BTreeMap<String, Cpu>,
}

/// xorshift64*: fast, and the same in every run.
struct Rng(u64);

impl Rng {
    #[inline]
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        ((high * bound as u64) >> 32) as usize
    }
}

/// Runs the workload to its end. Any error makes the run invalid.
pub(crate) fn run(workload: &Workload) -> Result<Outcome, LoadError> {
    workload.check()?;
    let endpoints = workload.login_args.endpoints(workload.target)?;
    let wire = Wire::new(workload.protocol, workload.keys(), workload.value);
    for endpoint in &endpoints {
        let stream = preload::connect(endpoint, &wire)?;
        preload::store_all(stream, workload.keys(), Expected { wire: &wire, login: &endpoint.login })?;
    }
    let mut generator = Generator {
        workload,
        keys: workload.keys(),
        wire,
        endpoints,
        poller: epoll::create(CreateFlags::CLOEXEC)?,
        sessions: Vec::new(),
        scratch: vec![0; SCRATCH],
        rng: Rng(0x9E37_79B9_7F4A_7C15),
        start: Instant::now(),
        counters: Counters::new(),
        schedule: workload.rate.map(|rate| Schedule { interval: 1e9 / rate, next: 0, touched: Vec::new() }),
    };
    generator.connect()?;
    generator.send_first_requests()?;
    generator.run_loop()
}

impl Generator<'_> {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn connect(&mut self) -> Result<(), LoadError> {
        for index in 0..self.workload.connections {
            let endpoint = &self.endpoints[index % self.endpoints.len()];
            if self.workload.churn {
                self.sessions.push(Session::connect(endpoint)?);
            } else {
                self.sessions.push(Session::open(preload::connect(endpoint, &self.wire)?)?);
                self.watch(index)?;
            }
        }
        self.start = Instant::now();
        Ok(())
    }

    /// Sends the first requests on every connection.
    fn send_first_requests(&mut self) -> Result<(), LoadError> {
        for index in 0..self.sessions.len() {
            self.sessions[index].next = index as u64;
            if self.workload.churn {
                self.start_session(index)?;
            } else if self.schedule.is_none() {
                self.refill(index, self.now());
                self.flush(index)?;
            }
        }
        Ok(())
    }

    fn run_loop(&mut self) -> Result<Outcome, LoadError> {
        let warm = self.workload.warm_up().as_nanos() as u64;
        let measured = self.workload.measured().as_nanos() as u64;
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let mut baseline: Option<Baseline> = None;
        let mut last_reply = 0;
        loop {
            let now = self.now();
            match &baseline {
                None if now >= warm => {
                    self.counters.restart();
                    baseline = Some(Baseline {
                        at: now,
                        generator_cpu: own_cpu(),
                        watched_cpu: cpu::sample(&self.workload.watched)?,
                    });
                }
                Some(baseline)
                    if now >= baseline.at + measured || self.counters.ops() >= self.workload.count =>
                {
                    return self.outcome(baseline, now);
                }
                _ => {}
            }
            let timeout = self.issue_due(now)?;
            let (ready, _) = match epoll::wait(&self.poller, &mut events, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                ready => ready?,
            };
            if !ready.is_empty() {
                last_reply = now;
            } else if now - last_reply > REPLY_TIMEOUT.as_nanos() as u64 && self.has_pending() {
                return Err(LoadError::invalid_run(format!("no reply for {} s", REPLY_TIMEOUT.as_secs())));
            }
            for event in ready {
                let index = event.data.u64() as usize;
                self.on_ready(index, event.flags)?;
            }
        }
    }

    fn has_pending(&self) -> bool {
        self.sessions.iter().any(|session| session.in_flight > 0)
    }

    fn on_ready(&mut self, index: usize, flags: EventFlags) -> Result<(), LoadError> {
        if flags.contains(EventFlags::OUT) {
            self.flush(index)?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        let login = &self.endpoints[index % self.endpoints.len()].login;
        let expected = Expected { wire: &self.wire, login };
        let (start, counters) = (self.start, &mut self.counters);
        let mut now = None;
        let mut last = None;
        self.sessions[index].receive(expected, &mut self.scratch, |reply| {
            let now = *now.get_or_insert_with(|| start.elapsed().as_nanos() as u64);
            counters.count(reply, now);
            last = Some(reply);
        })?;
        // A TLS handshake may have ended, so that buffered requests can be sent.
        let Some(last) = last else { return self.flush(index) };
        if self.workload.churn {
            return self.churn(index, last);
        }
        self.refill(index, self.now());
        self.flush(index)
    }

    /// Continues a churn run: after the login a get, after the get a new connection.
    fn churn(&mut self, index: usize, last: Pending) -> Result<(), LoadError> {
        if last.op == Op::Login {
            self.enqueue(index, last.at);
            return self.flush(index);
        }
        self.sessions[index] = Session::connect(&self.endpoints[index % self.endpoints.len()])?;
        self.start_session(index)
    }

    /// Buffers the first request of a connection that isn't open yet.
    fn start_session(&mut self, index: usize) -> Result<(), LoadError> {
        let at = self.now();
        let login = &self.endpoints[index % self.endpoints.len()].login;
        let session = &mut self.sessions[index];
        if login.expect().is_some() {
            session.out.extend_from_slice(login.request());
            session.pending.push_back(Pending { op: Op::Login, key: 0, at });
            session.in_flight = 1;
        } else {
            self.enqueue(index, at);
        }
        self.sessions[index].blocked = true;
        self.watch(index)
    }

    /// Fills the pipeline with requests that may be sent now.
    fn refill(&mut self, index: usize, now: u64) {
        while self.sessions[index].in_flight < self.workload.pipeline {
            let at = match &self.schedule {
                None => now,
                Some(schedule) => {
                    let session = &mut self.sessions[index];
                    if session.due == 0 {
                        return;
                    }
                    let at = (session.next as f64 * schedule.interval) as u64;
                    session.due -= 1;
                    session.next += self.workload.connections as u64;
                    at
                }
            };
            self.enqueue(index, at);
        }
    }

    /// Appends one request to a connection's buffer.
    #[inline]
    fn enqueue(&mut self, index: usize, at: u64) {
        let session = &mut self.sessions[index];
        session.in_flight += 1;
        let key = self.rng.below(self.keys);
        if !self.workload.churn && self.rng.below(100) < self.workload.sets as usize {
            self.wire.set(key, &mut session.out);
            session.pending.push_back(Pending { op: Op::Set, key, at });
            return;
        }
        if self.workload.multiget == 1 {
            self.wire.get(key, &mut session.out);
            session.pending.push_back(Pending { op: Op::Get, key, at });
            return;
        }
        let first = session.pending.len();
        for left in (0..self.workload.multiget).rev() {
            let op = if left == 0 { Op::Get } else { Op::GetMore };
            session.pending.push_back(Pending { op, key: self.rng.below(self.keys), at });
        }
        self.wire.multiget(session.pending.range(first..).map(|get| get.key), &mut session.out);
    }

    /// Sends what is buffered, and polls for writability while the socket's send buffer is full.
    fn flush(&mut self, index: usize) -> Result<(), LoadError> {
        let session = &mut self.sessions[index];
        let blocked = session.flush()?;
        if blocked != session.blocked {
            session.blocked = blocked;
            epoll::modify(
                &self.poller,
                &session.stream,
                EventData::new_u64(index as u64),
                interest(blocked),
            )?;
        }
        Ok(())
    }

    fn watch(&self, index: usize) -> Result<(), LoadError> {
        let session = &self.sessions[index];
        let data = EventData::new_u64(index as u64);
        Ok(epoll::add(&self.poller, &session.stream, data, interest(session.blocked))?)
    }

    /// Open loop: sends every request that is due. Returns how long the poller may wait.
    fn issue_due(&mut self, now: u64) -> Result<Timespec, LoadError> {
        let mut wait = POLL_TIMEOUT.as_nanos() as u64;
        if let Some(schedule) = &mut self.schedule {
            let due = (now as f64 / schedule.interval) as u64;
            let connections = self.workload.connections as u64;
            while schedule.next <= due {
                let index = (schedule.next % connections) as usize;
                if self.sessions[index].due == 0 {
                    schedule.touched.push(index);
                }
                self.sessions[index].due += 1;
                schedule.next += 1;
            }
            wait = wait.min(((schedule.next as f64 * schedule.interval) as u64).saturating_sub(now));
            let mut touched = std::mem::take(&mut schedule.touched);
            for index in touched.drain(..) {
                self.refill(index, now);
                self.flush(index)?;
            }
            if let Some(schedule) = &mut self.schedule {
                schedule.touched = touched;
            }
        }
        Ok(Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait).unwrap_or(0) })
    }

    fn outcome(&self, baseline: &Baseline, now: u64) -> Result<Outcome, LoadError> {
        let generator = own_cpu() - baseline.generator_cpu;
        let mut cpu_s = cpu::sample(&self.workload.watched)?;
        for (name, cpu) in &mut cpu_s {
            let before = baseline.watched_cpu.get(name).copied().unwrap_or_default();
            *cpu = Cpu { user: cpu.user - before.user, sys: cpu.sys - before.sys };
        }
        cpu_s.insert("generator".into(), Cpu { user: generator, sys: 0.0 });
        let seconds = (now - baseline.at) as f64 / 1e9;
        let ops = self.counters.ops();
        if ops == 0 {
            return Err(LoadError::invalid_run("no reply at all"));
        }
        Ok(Outcome {
            ops,
            gets: self.counters.gets,
            sets: self.counters.sets,
            seconds,
            ops_per_s: ops as f64 / seconds,
            p50_us: self.counters.microseconds(0.5),
            p99_us: self.counters.microseconds(0.99),
            p999_us: self.counters.microseconds(0.999),
            max_us: self.counters.microseconds(1.0),
            backlog: self.sessions.iter().map(|session| session.due).sum(),
            generator_share: generator / seconds,
            cpu_s,
        })
    }
}

fn interest(blocked: bool) -> EventFlags {
    if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN }
}

/// CPU seconds of this process.
fn own_cpu() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests;
