//! A small memcached: the part of the meta protocol that lanes use, answered correctly.

use std::collections::HashMap;

/// One item, with its cas.
struct Item {
    value: Vec<u8>,
    flags: u64,
    cas: u64,
}

#[derive(Default)]
pub(crate) struct Items {
    items: HashMap<Vec<u8>, Item>,
    last_cas: u64,
}

/// A complete command on a lane.
pub(crate) struct Command<'a> {
    verb: &'a str,
    key: &'a str,
    flags: Vec<&'a str>,
    data: &'a [u8],
    pub(crate) consumed: usize,
}

impl<'a> Command<'a> {
    /// Parses the first command of `input`; `None` if it is incomplete. Panics if memcached would
    /// reject it: the proxy must not forward anything malformed.
    pub(crate) fn read(input: &'a [u8]) -> Option<Self> {
        let end = input.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&input[..end]).expect("a line that is no text");
        let line = line.strip_suffix('\r').expect("a line that ends in a bare LF");
        assert!(line.len() <= 2048 && !line.contains(['\0', '\r']), "not one line: {line:?}");
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let key = if matches!(verb, "version" | "mn") { "" } else { words.next().expect("no key") };
        assert!(key.len() <= 250, "a key of {} bytes", key.len());
        let head = end + 1;
        let len = (verb == "ms").then(|| words.next().unwrap().parse::<usize>().expect("no length"));
        let block = len.map_or(0, |len| len + 2);
        let data = input.get(head..head + block)?;
        let data =
            if len.is_some() { data.strip_suffix(b"\r\n").expect("a block without its end") } else { data };
        Some(Self { verb, key, flags: words.collect(), data, consumed: head + block })
    }

    /// The argument of a flag, if the flag is present.
    fn flag(&self, name: char) -> Option<&'a str> {
        self.flags.iter().find_map(|flag| flag.strip_prefix(name))
    }

    fn number(&self, name: char) -> Option<u64> {
        self.flag(name).map(|number| number.parse().expect("a flag's number"))
    }

    /// The command without its tag and data block.
    pub(crate) fn text(&self) -> String {
        let flags = self.flags.iter().copied().filter(|flag| !flag.starts_with('O'));
        [self.verb, self.key].into_iter().chain(flags).collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }

    pub(crate) fn tag(&self) -> Option<u64> {
        self.number('O')
    }

    /// Whether memcached may answer it with an untagged error for stores.
    pub(crate) fn is_store(&self) -> bool {
        self.verb == "ms"
    }

    pub(crate) fn is_arithmetic(&self) -> bool {
        self.verb == "ma"
    }
}

impl Items {
    /// Executes `command` and appends memcached's reply.
    pub(crate) fn answer(&mut self, command: &Command<'_>, out: &mut Vec<u8>) {
        match command.verb {
            "version" => out.extend(b"VERSION 1.6.45\r\n"),
            "mn" => out.extend(b"MN\r\n"),
            "mg" => match self.items.get(command.key.as_bytes()) {
                None => reply(b"EN", command, None, out),
                Some(item) if command.flag('v').is_some() => value(item, command, out),
                Some(item) => reply(b"HD", command, Some(item), out),
            },
            "ms" => self.store(command, out),
            "md" => {
                let known = self.items.contains_key(command.key.as_bytes());
                if known && self.is_another(command) {
                    return reply(b"EX", command, None, out);
                }
                self.items.remove(command.key.as_bytes());
                reply(if known { b"HD" } else { b"NF" }, command, None, out);
            }
            "ma" => self.count(command, out),
            other => panic!("{other:?} on a lane"),
        }
    }

    fn is_another(&self, command: &Command<'_>) -> bool {
        let item = self.items.get(command.key.as_bytes());
        command.number('C').is_some_and(|cas| item.is_some_and(|item| item.cas != cas))
    }

    fn store(&mut self, command: &Command<'_>, out: &mut Vec<u8>) {
        let old = self.items.get(command.key.as_bytes());
        if command.flag('C').is_some() && (old.is_none() || self.is_another(command)) {
            return reply(if old.is_some() { b"EX" } else { b"NF" }, command, None, out);
        }
        let mode = command.flag('M').unwrap_or("S");
        let wanted = match mode {
            "S" => true,
            "E" => old.is_none(),
            "R" | "A" | "P" => old.is_some(),
            other => panic!("mode {other}"),
        };
        if !wanted {
            return reply(b"NS", command, None, out);
        }
        let before = old.map(|item| item.value.as_slice()).unwrap_or_default();
        let value = match mode {
            "A" => [before, command.data].concat(),
            "P" => [command.data, before].concat(),
            _ => command.data.to_vec(),
        };
        self.last_cas += 1;
        let item = Item { value, flags: command.number('F').unwrap_or(0), cas: self.last_cas };
        reply(b"HD", command, Some(&item), out);
        self.items.insert(command.key.into(), item);
    }

    fn count(&mut self, command: &Command<'_>, out: &mut Vec<u8>) {
        self.last_cas += 1;
        let Some(item) = self.items.get_mut(command.key.as_bytes()) else {
            if command.flag('N').is_none() {
                return reply(b"NF", command, None, out);
            }
            let value = command.number('J').unwrap_or(0).to_string().into_bytes();
            let item = Item { value, flags: 0, cas: self.last_cas };
            value_of(&item, command, out);
            self.items.insert(command.key.into(), item);
            return;
        };
        let now: u64 = std::str::from_utf8(&item.value).unwrap().parse().expect("no number");
        let delta = command.number('D').unwrap_or(1);
        let down = command.flag('M') == Some("D");
        let then = if down { now.saturating_sub(delta) } else { now.wrapping_add(delta) };
        item.value = then.to_string().into_bytes();
        item.cas = self.last_cas;
        value_of(item, command, out);
    }
}

fn value_of(item: &Item, command: &Command<'_>, out: &mut Vec<u8>) {
    if command.flag('v').is_some() {
        value(item, command, out);
    } else {
        reply(b"HD", command, Some(item), out);
    }
}

fn value(item: &Item, command: &Command<'_>, out: &mut Vec<u8>) {
    reply(format!("VA {}", item.value.len()).as_bytes(), command, Some(item), out);
    out.extend_from_slice(&item.value);
    out.extend(b"\r\n");
}

/// Writes a status and the return flags, in the order of the request.
fn reply(status: &[u8], command: &Command<'_>, item: Option<&Item>, out: &mut Vec<u8>) {
    out.extend_from_slice(status);
    for flag in &command.flags {
        let number = match (flag.as_bytes()[0], item) {
            (b'O' | b'b', _) => {
                out.push(b' ');
                out.extend_from_slice(flag.as_bytes());
                continue;
            }
            (b'k', _) => {
                out.extend([b" k", command.key.as_bytes()].concat());
                continue;
            }
            (b'f', Some(item)) => item.flags,
            (b'c', Some(item)) => item.cas,
            (b's', Some(item)) => item.value.len() as u64,
            _ => continue,
        };
        out.push(b' ');
        out.push(flag.as_bytes()[0]);
        out.extend(number.to_string().into_bytes());
    }
    out.extend(b"\r\n");
}
