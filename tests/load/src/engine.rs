//! The run: one thread, one poller, no allocation per request, one write for all that a connection may
//! send at a time.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::cpu::{self, Cpu};
use crate::failure::Failure;
use crate::outcome::{Outcome, Tally};
use crate::plan::{Plan, Way};
use crate::preload;
use crate::session::{Known, Pending, Session};
use crate::wire::{Op, Wire};

const SCRATCH: usize = 256 * 1024;
const EVENTS: usize = 512;
/// This long without any reply voids the run.
const SILENCE: Duration = Duration::from_secs(10);
/// The poller comes back so often to look at the clock.
const GLANCE: Duration = Duration::from_millis(20);

struct Engine<'a> {
    plan: &'a Plan,
    keys: usize,
    wire: Wire,
    ways: Vec<Way>,
    poller: OwnedFd,
    sessions: Vec<Session>,
    scratch: Vec<u8>,
    random: Random,
    start: Instant,
    tally: Tally,
    schedule: Option<Schedule>,
}

/// An open loop's: request `n` is due at `n * interval`, on connection `n` modulo their number.
struct Schedule {
    interval: f64,
    next: u64,
    /// Connections that got something to send in this turn.
    touched: Vec<usize>,
}

/// When measuring began, and what had been used till then.
struct Mark {
    at: u64,
    own: f64,
    others: BTreeMap<String, Cpu>,
}

/// xorshift64*: fast, and the same in every run.
struct Random(u64);

impl Random {
    #[inline]
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        ((high * bound as u64) >> 32) as usize
    }
}

/// Runs the plan to its end. Any error voids it.
pub(crate) fn run(plan: &Plan) -> Result<Outcome, Failure> {
    plan.check()?;
    let ways = plan.identity.ways(plan.target)?;
    let wire = Wire::new(plan.protocol, plan.keys(), plan.value);
    for way in &ways {
        let stream = preload::enter(way, &wire)?;
        preload::store_all(stream, plan.keys(), Known { wire: &wire, login: &way.login })?;
    }
    let mut engine = Engine {
        plan,
        keys: plan.keys(),
        wire,
        ways,
        poller: epoll::create(CreateFlags::CLOEXEC)?,
        sessions: Vec::new(),
        scratch: vec![0; SCRATCH],
        random: Random(0x9E37_79B9_7F4A_7C15),
        start: Instant::now(),
        tally: Tally::new(),
        schedule: plan.rate.map(|rate| Schedule { interval: 1e9 / rate, next: 0, touched: Vec::new() }),
    };
    engine.connect()?;
    engine.begin()?;
    engine.drive()
}

impl Engine<'_> {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn connect(&mut self) -> Result<(), Failure> {
        for index in 0..self.plan.connections {
            let way = &self.ways[index % self.ways.len()];
            if self.plan.churn {
                self.sessions.push(Session::begin(way)?);
            } else {
                self.sessions.push(Session::open(preload::enter(way, &self.wire)?)?);
                self.watch(index)?;
            }
        }
        self.start = Instant::now();
        Ok(())
    }

    /// The first requests of every connection.
    fn begin(&mut self) -> Result<(), Failure> {
        for index in 0..self.sessions.len() {
            self.sessions[index].next = index as u64;
            if self.plan.churn {
                self.arrive(index)?;
            } else if self.schedule.is_none() {
                self.refill(index, self.now());
                self.flush(index)?;
            }
        }
        Ok(())
    }

    fn drive(&mut self) -> Result<Outcome, Failure> {
        let warm = self.plan.warm_up().as_nanos() as u64;
        let measured = self.plan.measured().as_nanos() as u64;
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let mut mark: Option<Mark> = None;
        let mut last_reply = 0;
        loop {
            let now = self.now();
            match &mark {
                None if now >= warm => {
                    self.tally.restart();
                    mark = Some(Mark { at: now, own: own_cpu(), others: cpu::sample(&self.plan.watched)? });
                }
                Some(mark) if now >= mark.at + measured || self.tally.ops() >= self.plan.count => {
                    return self.outcome(mark, now);
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
            } else if now - last_reply > SILENCE.as_nanos() as u64 && self.waits() {
                return Err(Failure::void(format!("no reply for {} s", SILENCE.as_secs())));
            }
            for event in ready {
                let index = event.data.u64() as usize;
                self.serve(index, event.flags)?;
            }
        }
    }

    fn waits(&self) -> bool {
        self.sessions.iter().any(|session| session.in_flight > 0)
    }

    fn serve(&mut self, index: usize, flags: EventFlags) -> Result<(), Failure> {
        if flags.contains(EventFlags::OUT) {
            self.flush(index)?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        let login = &self.ways[index % self.ways.len()].login;
        let known = Known { wire: &self.wire, login };
        let (start, tally) = (self.start, &mut self.tally);
        let mut now = None;
        let mut last = None;
        self.sessions[index].receive(known, &mut self.scratch, |reply| {
            let now = *now.get_or_insert_with(|| start.elapsed().as_nanos() as u64);
            tally.count(reply, now);
            last = Some(reply);
        })?;
        // A handshake may have ended, and made way for what is to be sent.
        let Some(last) = last else { return self.flush(index) };
        if self.plan.churn {
            return self.churn(index, last);
        }
        self.refill(index, self.now());
        self.flush(index)
    }

    /// After the login the get, after the get a new connection.
    fn churn(&mut self, index: usize, last: Pending) -> Result<(), Failure> {
        if last.op == Op::Login {
            self.ask(index, last.at);
            return self.flush(index);
        }
        self.sessions[index] = Session::begin(&self.ways[index % self.ways.len()])?;
        self.arrive(index)
    }

    /// A connection that isn't there yet: its first words go out once it is.
    fn arrive(&mut self, index: usize) -> Result<(), Failure> {
        let at = self.now();
        let login = &self.ways[index % self.ways.len()].login;
        let session = &mut self.sessions[index];
        if login.expect().is_some() {
            session.out.extend_from_slice(login.request());
            session.pending.push_back(Pending { op: Op::Login, key: 0, at });
            session.in_flight = 1;
        } else {
            self.ask(index, at);
        }
        self.sessions[index].blocked = true;
        self.watch(index)
    }

    /// Fills the pipeline with what may be sent now.
    fn refill(&mut self, index: usize, now: u64) {
        while self.sessions[index].in_flight < self.plan.pipeline {
            let at = match &self.schedule {
                None => now,
                Some(schedule) => {
                    let session = &mut self.sessions[index];
                    if session.due == 0 {
                        return;
                    }
                    let at = (session.next as f64 * schedule.interval) as u64;
                    session.due -= 1;
                    session.next += self.plan.connections as u64;
                    at
                }
            };
            self.ask(index, at);
        }
    }

    /// Puts one request into a connection's buffer.
    #[inline]
    fn ask(&mut self, index: usize, at: u64) {
        let session = &mut self.sessions[index];
        session.in_flight += 1;
        let key = self.random.below(self.keys);
        if !self.plan.churn && self.random.below(100) < self.plan.sets as usize {
            self.wire.set(key, &mut session.out);
            session.pending.push_back(Pending { op: Op::Set, key, at });
            return;
        }
        if self.plan.multiget == 1 {
            self.wire.get(key, &mut session.out);
            session.pending.push_back(Pending { op: Op::Get, key, at });
            return;
        }
        let first = session.pending.len();
        for left in (0..self.plan.multiget).rev() {
            let op = if left == 0 { Op::Get } else { Op::GetMore };
            session.pending.push_back(Pending { op, key: self.random.below(self.keys), at });
        }
        self.wire.multiget(session.pending.range(first..).map(|get| get.key), &mut session.out);
    }

    /// Sends; watches for room if the socket takes no more, and no longer if it does.
    fn flush(&mut self, index: usize) -> Result<(), Failure> {
        let session = &mut self.sessions[index];
        let blocked = session.flush()?;
        if blocked != session.blocked {
            session.blocked = blocked;
            epoll::modify(&self.poller, &session.link, EventData::new_u64(index as u64), interest(blocked))?;
        }
        Ok(())
    }

    fn watch(&self, index: usize) -> Result<(), Failure> {
        let session = &self.sessions[index];
        let data = EventData::new_u64(index as u64);
        Ok(epoll::add(&self.poller, &session.link, data, interest(session.blocked))?)
    }

    /// Open loop: hands out every request whose time has come. Returns how long to wait at most.
    fn issue_due(&mut self, now: u64) -> Result<Timespec, Failure> {
        let mut wait = GLANCE.as_nanos() as u64;
        if let Some(schedule) = &mut self.schedule {
            let due = (now as f64 / schedule.interval) as u64;
            let connections = self.plan.connections as u64;
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

    fn outcome(&self, mark: &Mark, now: u64) -> Result<Outcome, Failure> {
        let generator = own_cpu() - mark.own;
        let mut cpu_s = cpu::sample(&self.plan.watched)?;
        for (name, cpu) in &mut cpu_s {
            let before = mark.others.get(name).copied().unwrap_or_default();
            *cpu = Cpu { user: cpu.user - before.user, sys: cpu.sys - before.sys };
        }
        cpu_s.insert("generator".into(), Cpu { user: generator, sys: 0.0 });
        let seconds = (now - mark.at) as f64 / 1e9;
        let ops = self.tally.ops();
        if ops == 0 {
            return Err(Failure::void("not one reply"));
        }
        Ok(Outcome {
            ops,
            gets: self.tally.gets,
            sets: self.tally.sets,
            seconds,
            ops_per_s: ops as f64 / seconds,
            p50_us: self.tally.microseconds(0.5),
            p99_us: self.tally.microseconds(0.99),
            p999_us: self.tally.microseconds(0.999),
            max_us: self.tally.microseconds(1.0),
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
