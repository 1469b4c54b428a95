//! A memcached that gives pages back, in slices: between them others' work goes on, and networks are made again. What
//! answers may be hijacked, so it is asked at a bounded rate, and not for ever.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::memcached::Memcached;
use crate::pages::Pages;

/// Time of a slice. A network isn't made again before it has ended.
const SLICE: Duration = Duration::from_secs(1);
/// Slices in a row without a page that was given back, after which a resize fails.
const STALLS_MAX: u32 = 15;
/// Slices of one resize, after which it fails however it goes: an hour.
const SLICES_MAX: u32 = 3_600;
/// Pages that are asked for before memcached's figures are read again.
const MOVES_MAX: usize = 32;
/// memcached moves one page at a time.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(1);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(50);

/// How memcached has given memory back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shrunk {
    /// It has no more than it is to have.
    Fits,
    /// Each size of items has one page left, which memcached keeps.
    LastPages,
    /// It takes longer than a slice.
    OutOfTime,
}

/// The slices of a resize.
#[derive(Debug, Default)]
pub(crate) struct Shrinking {
    operation: String,
    /// The fewest bytes that memcached had before a slice.
    least: Option<u64>,
    slices: u32,
    /// Slices in a row without fewer bytes.
    stalls: u32,
}

impl Shrinking {
    /// Counts a slice that ran out of time. `allocated`: bytes before it. Returns why the operation fails, if it does.
    pub(super) fn note(&mut self, operation: &str, allocated: u64) -> Option<String> {
        if self.operation != operation {
            *self = Self { operation: operation.to_owned(), ..Self::default() };
        }
        let is_less = self.least.is_none_or(|least| allocated < least);
        self.least = Some(self.least.map_or(allocated, |least| least.min(allocated)));
        self.slices = self.slices.saturating_add(1);
        self.stalls = if is_less { 1 } else { self.stalls.saturating_add(1) };
        let fix = "restart the cache, which empties it, or ask for a size again later";
        if self.stalls >= STALLS_MAX {
            Some(format!("memcached has given no memory back for {STALLS_MAX} s: {fix}"))
        } else if self.slices >= SLICES_MAX {
            Some(format!("memcached hasn't given its memory back within an hour: {fix}"))
        } else {
            None
        }
    }
}

/// Makes memcached give pages back until it has no more than `memory_mb`, or the slice ends.
pub(super) async fn shrink(memcached: &mut Memcached, memory_mb: u64) -> io::Result<Shrunk> {
    let deadline = Instant::now() + SLICE;
    let (mut poll, mut before) = (Poll::default(), u64::MAX);
    loop {
        let Some(pages) = pages_at_rest(memcached, deadline).await? else { return Ok(Shrunk::OutOfTime) };
        if pages.surplus(memory_mb) == 0 {
            return Ok(Shrunk::Fits);
        }
        let moves = pages.next_moves(memory_mb, MOVES_MAX);
        if moves.is_empty() {
            return Ok(Shrunk::LastPages);
        }
        // It may refuse each move, or say that it does it and not do it.
        if pages.allocated < before {
            poll = Poll::default();
        } else {
            poll.wait().await;
        }
        before = pages.allocated;
        for class in moves {
            if !take_page(memcached, class, deadline).await? {
                break;
            }
        }
    }
}

/// Takes a page from items of one size, and gives it back to the system. Returns whether memcached does it.
async fn take_page(memcached: &mut Memcached, class: u32, deadline: Instant) -> io::Result<bool> {
    let mut poll = Poll::default();
    while Instant::now() < deadline {
        let reply = memcached.request(&format!("slabs reassign {class} 0")).await?;
        if !reply.starts_with("BUSY") {
            return Ok(reply == "OK");
        }
        poll.wait().await;
    }
    Ok(false)
}

/// The pages, once none is being moved; `None` if that lasts.
async fn pages_at_rest(memcached: &mut Memcached, deadline: Instant) -> io::Result<Option<Pages>> {
    let mut poll = Poll::default();
    while Instant::now() < deadline {
        // Moves nothing, and is refused as busy while a page is moved.
        if !memcached.request("slabs reassign 1 1").await?.starts_with("BUSY") {
            return memcached.statistics(" slabs").await.map(|figures| Some(Pages::read(&figures)));
        }
        poll.wait().await;
    }
    Ok(None)
}

/// Waits longer each time.
struct Poll {
    next: Duration,
}

impl Default for Poll {
    fn default() -> Self {
        Self { next: POLL_INTERVAL_MIN }
    }
}

impl Poll {
    async fn wait(&mut self) {
        sleep(self.next).await;
        self.next = self.next.saturating_mul(2).min(POLL_INTERVAL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use store::LaneCredential;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// Shrinks a memcached that gives these answers to `slabs reassign`, to asking whether it is at rest and to moves, and
    /// always has 64 pages. Returns how many requests it got.
    async fn shrink_one_that_says(at_rest: &str, moved: &str) -> (io::Result<Shrunk>, usize) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (client, _) = listener.accept().await.unwrap();
            let mut lines = BufReader::new(client);
            let (mut line, mut requests) = (String::new(), 0);
            while lines.read_line(&mut line).await.unwrap() > 0 {
                let reply = match line.trim_end() {
                    "version" => LaneCredential::UNAUTHENTICATED,
                    login if login.starts_with("set ") => "",
                    login if login.starts_with("lane ") => LaneCredential::LOGIN_OK,
                    "slabs reassign 1 1" => at_rest,
                    "stats slabs" => "STAT 1:total_pages 64\r\nSTAT total_malloced 67108864\r\nEND",
                    _ => moved,
                };
                if !reply.is_empty() {
                    lines.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
                }
                line.clear();
                requests += 1;
            }
            requests
        };
        let work = async {
            let credential = LaneCredential::new("secret".to_owned());
            let mut memcached = Memcached::connect_to(address, &credential).await?;
            shrink(&mut memcached, 32).await
        };
        tokio::join!(work, serve)
    }

    //
    #[tokio::test]
    async fn a_slice_ends_and_asks_little_whatever_memcached_says() {
        for (at_rest, moved) in [("BUSY", "BUSY"), ("SAME", "BUSY"), ("SAME", "NOSPARE"), ("SAME", "OK")] {
            let started = Instant::now();
            let (shrunk, requests) = shrink_one_that_says(at_rest, moved).await;
            let took = started.elapsed();
            assert_eq!(shrunk.unwrap(), Shrunk::OutOfTime, "{at_rest} {moved}");
            assert!(took < 2 * SLICE, "{at_rest} {moved}: {took:?}");
            assert!(requests < 30 * (MOVES_MAX + 2), "{at_rest} {moved}: {requests} requests");
            assert!(moved != "BUSY" || requests < 60, "{at_rest} {moved}: {requests} requests");
        }
    }

    //
    #[test]
    fn a_resize_without_progress_fails_with_a_fix() {
        let mut shrinking = Shrinking::default();
        let slices = |shrinking: &mut Shrinking, operation: &str, count: u32| {
            (0..count).filter_map(|_| shrinking.note(operation, 64)).collect::<Vec<_>>()
        };
        assert_eq!(slices(&mut shrinking, "a", STALLS_MAX - 1), [""; 0]);
        assert_eq!(slices(&mut shrinking, "b", STALLS_MAX - 1), [""; 0], "another operation");
        assert_eq!(shrinking.note("b", 63), None, "it has given something back");
        assert_eq!(shrinking.note("b", 65), None, "more isn't less");
        let failed = slices(&mut shrinking, "b", STALLS_MAX - 2);
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(failed[0].contains(" for 15 s: restart the cache"), "{failed:?}");
    }

    //
    #[test]
    fn a_resize_with_little_progress_fails_in_the_end() {
        let mut shrinking = Shrinking::default();
        let failed =
            (1_u64..).find_map(|slice| Some((slice, shrinking.note("a", u64::MAX - slice)?))).unwrap();
        assert_eq!(failed.0, u64::from(SLICES_MAX));
        assert!(failed.1.contains("within an hour: restart the cache"), "{failed:?}");
    }
}
