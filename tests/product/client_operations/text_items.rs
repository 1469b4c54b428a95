//! What tests/clients/operations.py does, with the tests' own client of the text protocol.

use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{ITEMS, REQUESTS_MIN};
use crate::text_client::TextClient;

const ITEM_SIZE: usize = 4000;
const SET_EVERY: usize = 5;
const PACE: Duration = Duration::from_millis(1);

/// What has been stored, and what became of it. An error of the connection is a panic, which ends the lines.
pub(super) struct TextItems {
    client: TextClient,
    versions: Vec<u64>,
    version: u64,
    errors: Vec<String>,
    lost: u64,
    wrong: u64,
    longest: Duration,
}

impl TextItems {
    pub(super) fn new(client: TextClient) -> Self {
        let versions = vec![0; usize::try_from(ITEMS).unwrap()];
        Self { client, versions, version: 0, errors: Vec::new(), lost: 0, wrong: 0, longest: Duration::ZERO }
    }

    /// Obeys commands until there are no more.
    pub(super) fn serve(mut self, commands: &Receiver<&'static str>, lines: &Sender<String>) {
        for number in 0..self.versions.len() {
            self.store(number);
        }
        assert_eq!(self.errors, [""; 0]);
        lines.send("ready".to_owned()).unwrap();
        while let Ok(command) = commands.recv() {
            (self.errors, self.lost, self.wrong, self.longest) = (Vec::new(), 0, 0, Duration::ZERO);
            let (mut turns, mut requests) = (0, 0);
            while requests < REQUESTS_MIN || commands.try_recv() == Err(TryRecvError::Empty) {
                if turns % SET_EVERY == 0 && command != "read" {
                    self.store(turns / SET_EVERY % self.versions.len());
                } else {
                    self.check(turns % self.versions.len());
                }
                if turns == 0 {
                    lines.send("begun".to_owned()).unwrap();
                }
                turns += 1;
                requests += 1;
                std::thread::sleep(PACE);
            }
            for number in 0..self.versions.len() {
                self.check(number);
            }
            let report = json!({
                "requests": requests, "lost": self.lost, "wrong": self.wrong, "errors": self.errors.len(),
                "error": self.errors.first(), "longest_ms": u64::try_from(self.longest.as_millis()).unwrap(),
            });
            let _ = lines.send(report.to_string());
        }
    }

    fn value(&self, number: usize) -> Vec<u8> {
        let text = format!("item {number} of text, version {}. ", self.versions[number]);
        text.bytes().cycle().take(ITEM_SIZE).collect()
    }

    fn store(&mut self, number: usize) {
        self.version += 1;
        self.versions[number] = self.version;
        let started = Instant::now();
        let reply = self.client.set(&format!("text-{number}"), &self.value(number));
        self.longest = self.longest.max(started.elapsed());
        if reply != "STORED" {
            self.errors.push(reply);
        }
    }

    fn check(&mut self, number: usize) {
        let started = Instant::now();
        let found = self.client.get(&format!("text-{number}"));
        self.longest = self.longest.max(started.elapsed());
        match found {
            Err(reply) => self.errors.push(reply),
            Ok(None) => {
                self.lost += 1;
                self.store(number);
            }
            Ok(Some(found)) => self.wrong += u64::from(found != self.value(number)),
        }
    }
}
