//! A backend that is a memcached most of the time, and now and then tells a lie. After a lie that no
//! memcached would tell it looks whether the proxy ends the lane.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use store::Token;

use crate::dice::Dice;
use crate::door::Door;
use crate::honest::{Command, Items};
use crate::lie::{Asked, LIES, Lie};
use crate::memcached::{Namespace, lane_secret, lead};

/// The one that the proxy dials.
const PORT: u16 = 11211;
/// One reply of so many is a lie.
const ONE_OF: usize = 10_000;
/// One lane of so many isn't let in.
const ONE_LANE_OF: usize = 12;
/// What one read takes.
const CHUNK: usize = 256 * 1024;
/// How often a lane that is silent is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A lane must end so soon after a lie: its deadline for replies, and room for a busy machine.
const BELIEVED: Duration = Duration::from_secs(8);

pub(crate) struct Liar {
    book: Arc<Book>,
    address: String,
    _namespace: Namespace,
}

/// What all lanes to one backend share.
struct Book {
    login: String,
    items: Mutex<Items>,
    lies: AtomicBool,
    closed: AtomicBool,
    /// How many have been told: the next is the next of the list.
    told: AtomicUsize,
    lanes: AtomicUsize,
    /// What a proxy should not have done.
    complaints: Mutex<Vec<String>>,
}

impl Liar {
    /// Becomes the backend of `token`'s user on `address`.
    pub(crate) fn start(door: &Door, token: &Token, address: &str) -> Self {
        let namespace = Namespace::with(address);
        let listener = listen(&namespace, address);
        let payload = format!("lane {}", lane_secret(door, token));
        let book = Arc::new(Book {
            login: format!("set auth 0 0 {}\r\n{payload}\r\n", payload.len()),
            items: Mutex::default(),
            lies: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            told: AtomicUsize::new(0),
            lanes: AtomicUsize::new(0),
            complaints: Mutex::default(),
        });
        let theirs = book.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let book = theirs.clone();
                if book.closed.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::spawn(move || Lane::serve(stream, book));
            }
        });
        lead(door, token, address);
        Self { book, address: address.to_owned(), _namespace: namespace }
    }

    /// How many lies it has told.
    pub(crate) fn told(&self) -> usize {
        self.book.told.load(Ordering::Relaxed)
    }

    /// From now on it is a memcached.
    pub(crate) fn reform(&self) {
        self.book.lies.store(false, Ordering::Relaxed);
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.book.complaints.lock().unwrap().clone()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.book.closed.store(true, Ordering::Relaxed);
        // Wakes who listens.
        let _ = TcpStream::connect((self.address.as_str(), PORT));
    }
}

fn listen(namespace: &Namespace, address: &str) -> TcpListener {
    let file = std::fs::File::open(format!("/var/run/netns/{}", namespace.name)).unwrap();
    let address = (address.to_owned(), PORT);
    // A thread of its own: it doesn't come back from there.
    let bound = std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind(address).unwrap()
    });
    bound.join().unwrap()
}

/// One lane, seen from its far end.
struct Lane {
    stream: TcpStream,
    book: Arc<Book>,
    dice: Dice,
    input: Vec<u8>,
    out: Vec<u8>,
    /// A reply that has let the next go first.
    behind: Vec<u8>,
    last_tag: Option<u64>,
    /// A lie is to be told as soon as the next of the list suits what is asked.
    due: bool,
    /// The lie that must end this lane, and when it was told.
    lied: Option<(Lie, Instant)>,
}

impl Lane {
    fn serve(stream: TcpStream, book: Arc<Book>) {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LOOK)).unwrap();
        stream.set_write_timeout(Some(BELIEVED)).unwrap();
        let number = book.lanes.fetch_add(1, Ordering::Relaxed);
        let mut lane = Self {
            stream,
            book: book.clone(),
            dice: Dice::new(u64::try_from(number).unwrap()),
            input: Vec::new(),
            out: Vec::new(),
            behind: Vec::new(),
            last_tag: None,
            due: false,
            lied: None,
        };
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lane.converse()));
        if let Err(panic) = served {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            book.complaints.lock().unwrap().push(words.unwrap_or_default());
        }
    }

    /// Ends when the proxy ends the lane, or by a lie.
    fn converse(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        self.log_in(&mut chunk)?;
        loop {
            let input = std::mem::take(&mut self.input);
            let mut done = 0;
            while let Some(command) = Command::read(&input[done..]) {
                done += command.consumed;
                self.answer(&command)?;
            }
            self.input = input;
            self.input.drain(..done);
            self.flush()?;
            if let Some((lie, told)) = self.lied {
                assert!(told.elapsed() < BELIEVED, "the lane lives on after a lie: {lie:?}");
            }
            self.read(&mut chunk)?;
        }
    }

    /// Reads once, or nothing for a while.
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        match self.stream.read(chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.input.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn log_in(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        let login = self.book.login.clone();
        while self.input.len() < login.len() {
            self.read(chunk)?;
        }
        assert!(self.input.starts_with(login.as_bytes()), "another's login");
        self.input.drain(..login.len());
        if self.lies() && self.dice.below(ONE_LANE_OF) == 0 {
            let words = [&b"CLIENT_ERROR authentication failure\r\n"[..], b"STO", b"", b"HD O0\r\n\r\n"];
            self.stream.write_all(words[self.dice.below(words.len())])?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.stream.write_all(b"STORED\r\n")
    }

    fn lies(&self) -> bool {
        self.book.lies.load(Ordering::Relaxed)
    }

    fn answer(&mut self, command: &Command<'_>) -> io::Result<()> {
        let begun = self.out.len();
        self.book.items.lock().unwrap().answer(command, &mut self.out);
        if let Some(tag) = command.tag() {
            assert!(self.last_tag.is_none_or(|last| last < tag), "tag {tag} again");
            self.last_tag = Some(tag);
            if self.lied.is_none() && self.lies() {
                self.due |= self.dice.below(ONE_OF) == 0;
                let asked = Asked { tag, store: command.is_store(), arithmetic: command.is_arithmetic() };
                let told = self.book.told.load(Ordering::Relaxed);
                let lie = LIES[told % LIES.len()];
                if self.due && lie.suits(asked, &self.out[begun..]) {
                    self.due = false;
                    self.book.told.fetch_add(1, Ordering::Relaxed);
                    let truth = self.out.split_off(begun);
                    return self.tell(lie, asked, &truth);
                }
            }
        }
        match self.lied {
            Some((Lie::Silence, _)) => self.out.clear(),
            Some((Lie::Swapped, _)) => self.out.append(&mut self.behind),
            _ => {}
        }
        Ok(())
    }

    fn tell(&mut self, lie: Lie, asked: Asked, truth: &[u8]) -> io::Result<()> {
        if lie.is_fatal() {
            self.lied = Some((lie, Instant::now()));
        }
        let words = lie.words(asked, truth, &mut self.dice);
        match lie {
            Lie::Late => {
                self.flush()?;
                std::thread::sleep(Duration::from_millis(u64::try_from(self.dice.below(300)).unwrap()));
            }
            Lie::InPieces => {
                self.flush()?;
                let longest = 1 + words.len() / 8;
                for piece in words.chunks(1 + self.dice.below(longest)) {
                    self.stream.write_all(piece)?;
                }
                return Ok(());
            }
            Lie::Swapped => self.behind = truth.to_vec(),
            _ => {}
        }
        self.out.extend(words);
        if lie == Lie::Half {
            self.flush()?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}
