//! The kernel's table of neighbours (ARP): each container takes two places in it, one for the host and one for itself. All
//! networks and network namespaces of the machine share it, and its default size of 1,024 is too small for 500 caches: beyond
//! it, connections to some of them fail, and checks find them unreachable.

use std::fs;
use std::io;
use std::path::Path;

/// The limits, from the hard one down: entries that it may have, beyond which unused ones are removed soon, and below which none
/// is. The hard one is raised first, since it may not be the smallest.
const LIMITS: [(&str, u32); 3] = [("gc_thresh3", 32_768), ("gc_thresh2", 16_384), ("gc_thresh1", 8_192)];
const FOLDER: &str = "/proc/sys/net/ipv4/neigh/default";

/// Makes room for some 10,000 caches. A table that is larger is left alone.
pub(crate) fn make_room() {
    match raise(Path::new(FOLDER)) {
        Ok(raised) if raised.is_empty() => {}
        Ok(raised) => {
            tracing::info!(limits = raised.join(" "), "raised the limits of the kernel's neighbour table");
        }
        Err(error) => tracing::warn!(
            %error,
            "can't raise the limits of the kernel's neighbour table: before there are hundreds of caches, run sysctl -w {}",
            LIMITS.map(|(name, value)| format!("net.ipv4.neigh.default.{name}={value}")).join(" ")
        ),
    }
}

/// Returns what was raised.
fn raise(folder: &Path) -> io::Result<Vec<String>> {
    let mut raised = Vec::new();
    for (name, wanted) in LIMITS {
        let file = folder.join(name);
        let has: u32 = fs::read_to_string(&file)?.trim().parse().map_err(io::Error::other)?;
        if has < wanted {
            fs::write(&file, wanted.to_string())?;
            raised.push(format!("{name}={wanted}"));
        }
    }
    Ok(raised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_raised_and_never_lowered() {
        let folder = tempfile::tempdir().unwrap();
        let limit = |name: &str| folder.path().join(name);
        assert!(raise(folder.path()).is_err());
        for (name, has) in [("gc_thresh1", "128\n"), ("gc_thresh2", "512\n"), ("gc_thresh3", "65536\n")] {
            fs::write(limit(name), has).unwrap();
        }
        assert_eq!(raise(folder.path()).unwrap(), ["gc_thresh2=16384", "gc_thresh1=8192"]);
        assert_eq!(fs::read_to_string(limit("gc_thresh3")).unwrap(), "65536\n");
        assert_eq!(fs::read_to_string(limit("gc_thresh1")).unwrap(), "8192");
        assert!(raise(folder.path()).unwrap().is_empty());
    }
}
