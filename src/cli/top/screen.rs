//! The text of `memgate top`: at least 80 columns, and no line longer than the terminal is wide.

use std::fmt::Write as _;

use super::view::{CacheView, ProxyView, RoleView, View};
use crate::output::escape_controls;

/// Columns that are enough for all figures.
pub(super) const WIDTH_MIN: usize = 80;
/// Columns of all figures of a cache.
const FIGURES_WIDTH: usize = 56;
/// Proxies that have a line; of a fleet, those that lag most.
const PROXIES_MAX: usize = 6;

/// The whole text, with the caches that fit into `height` lines.
pub(super) fn text(view: &View, width: usize, height: usize) -> String {
    let mut text = cut(&summary(view), width) + "\n";
    for role in &view.roles {
        text += &(cut(&role_line(role), width) + "\n");
    }
    let mut proxies: Vec<&ProxyView> = view.proxies.iter().collect();
    proxies.sort_by_key(|proxy| std::cmp::Reverse((proxy.lag_revisions, proxy.heartbeat_age_ms)));
    for proxy in proxies.iter().take(PROXIES_MAX) {
        text += &(cut(&proxy_line(proxy), width) + "\n");
    }
    if proxies.len() > PROXIES_MAX {
        let _ = writeln!(text, "and {} more proxies", proxies.len() - PROXIES_MAX);
    }
    let name_width = width.max(WIDTH_MIN) - FIGURES_WIDTH;
    let _ = writeln!(text, "\n{}", cut(&heading(name_width), width));
    let left = height.saturating_sub(text.lines().count());
    let shown = if view.caches.len() > left { left.saturating_sub(1) } else { left };
    for cache in view.caches.iter().take(shown) {
        text += &(cut(&cache_line(cache, name_width), width) + "\n");
    }
    if view.caches.len() > shown {
        let _ = writeln!(text, "and {} more", view.caches.len() - shown);
    }
    text
}

/// A line that isn't longer than the terminal is wide. What a user has named can't steer the terminal.
pub(super) fn cut(line: &str, width: usize) -> String {
    escape_controls(line).replace('\t', " ").chars().take(width).collect::<String>().trim_end().to_owned()
}

fn summary(view: &View) -> String {
    let total = &view.total;
    format!(
        "{} caches  {} ops/s  {} hits  p99 {}  {} errors/s  {} connections",
        view.caches.len(),
        rate(total.operations_per_second),
        hits(total.hits_per_thousand),
        latency(total.p99_us),
        rate(total.errors_per_second),
        total.connections
    )
}

fn role_line(role: &RoleView) -> String {
    let name = format!("{:<12}", role.role);
    if let Some(message) = &role.message {
        return format!("{name} not ready: {message}");
    }
    let cpu = role.cpu_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}"));
    format!(
        "{name} cpu {cpu} %  memory {:.0} MB  files {:.0} of {:.0}",
        role.memory_bytes / 1_048_576.0,
        role.open_files,
        role.open_files_max
    )
}

fn proxy_line(proxy: &ProxyView) -> String {
    let (lag, age) = (proxy.lag_revisions, proxy.heartbeat_age_ms);
    let lag = if lag == 0 { "current".to_owned() } else { format!("{lag} changes behind") };
    let connections = proxy.connections;
    format!(
        "proxy {}: {lag}, heartbeat {}.{} s ago, {connections} connections",
        proxy.name,
        age / 1000,
        age / 100 % 10
    )
}

fn heading(name_width: usize) -> String {
    columns("CACHE", name_width, ["STATE", "OPS/S", "HITS", "P99", "ERR/S", "MEMORY", "CONN"])
}

fn cache_line(cache: &CacheView, name_width: usize) -> String {
    let name = format!("{} {}", cache.email, cache.cache);
    let rates = &cache.rates;
    let figures = [
        cache.state,
        &rate(rates.operations_per_second),
        &hits(rates.hits_per_thousand),
        &latency(rates.p99_us),
        &rate(rates.errors_per_second),
        &memory(cache.memory_bytes, cache.memory_limit_bytes),
        &rates.connections.to_string(),
    ];
    columns(&name, name_width, figures)
}

fn columns(name: &str, name_width: usize, figures: [&str; 7]) -> String {
    let [state, ops, hits, p99, errors, memory, connections] = figures;
    let name = shortened(name, name_width);
    format!(
        "{name:name_width$} {state:10} {ops:>6} {hits:>6} {p99:>6} {errors:>5} {memory:>10} {connections:>6}"
    )
}

/// A text that fits, with a mark where the rest is left out.
fn shortened(text: &str, width: usize) -> String {
    let text = escape_controls(text).replace('\t', " ");
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}~")
}

/// Used and maximum, in the unit that suits the maximum.
fn memory(used: Option<i64>, max: i64) -> String {
    let (shift, unit) = if max < 10_000 << 20 { (20, 'M') } else { (30, 'G') };
    let used = used.map_or_else(|| "-".to_owned(), |bytes| (bytes >> shift).to_string());
    format!("{used}/{}{unit}", max >> shift)
}

/// A rate in at most 6 characters.
fn rate(per_second: f64) -> String {
    match per_second {
        ..100.0 => format!("{per_second:.1}"),
        100.0..1e5 => format!("{per_second:.0}"),
        1e5..1e7 => format!("{:.0}k", per_second / 1e3),
        _ => format!("{:.0}M", per_second / 1e6),
    }
}

fn hits(thousandths: Option<i64>) -> String {
    thousandths.map_or_else(|| "-".to_owned(), |it| format!("{}.{}%", it / 10, it % 10))
}

fn latency(us: Option<i64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us @ ..10_000) => format!("{us}us"),
        Some(us @ ..10_000_000) => format!("{}ms", us / 1_000),
        Some(us) => format!("{}s", us / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use store::Timestamp;

    use super::super::view::Rates;
    use super::*;

    fn cache(email: &str, rates: Rates) -> CacheView {
        CacheView {
            email: email.to_owned(),
            cache: "default".to_owned(),
            state: "restarting",
            rates,
            memory_bytes: Some(65_536 << 20),
            memory_limit_bytes: 65_536 << 20,
            items: Some(1),
        }
    }

    fn view(caches: Vec<CacheView>) -> View {
        let proxy = |lag_revisions| ProxyView {
            name: "a-host-with-a-rather-long-name.example.org:11211".to_owned(),
            lag_revisions,
            heartbeat_age_ms: 1_234_567,
            connections: 100_000,
            version: "1".to_owned(),
        };
        let role = RoleView {
            role: "provisioner",
            ready: false,
            message: Some("a long reason why it isn't ready, ".repeat(9)),
            cpu_percent: None,
            memory_bytes: 0.0,
            open_files: 0.0,
            open_files_max: 0.0,
            connections: 0.0,
        };
        let proxies = (0..9).map(proxy).collect();
        let total = Rates::default();
        View { time: Timestamp::EPOCH, measured_ms: 1, total, roles: vec![role], proxies, caches }
    }

    // what a user has named steers no terminal.
    #[test]
    fn lines_fit_and_hold_no_controls() {
        let most = Rates {
            operations_per_second: 99_999_999.0,
            hits_per_thousand: Some(1000),
            p99_us: Some(8_388_608),
            errors_per_second: 99_999.0,
            connections: 100_000,
            ..Rates::default()
        };
        let name = "an-address-\u{1b}[2J-that-is-much-longer-than-the-column@example.org";
        let view = view((0..100).map(|_| cache(name, most.clone())).collect());
        for (width, height) in [(80, 24), (120, 40), (40, 10), (1, 1), (0, 0)] {
            let text = text(&view, width, height);
            assert!(text.lines().all(|line| line.chars().count() <= width.max(24)), "{text}");
            assert!(!text.contains('\u{1b}'));
        }
        let text = text(&view, 80, 24);
        assert_eq!(text.lines().count(), 24, "{text}");
        assert!(text.ends_with("more\n") && text.contains("8 changes behind"), "{text}");
        let row = text.lines().find(|line| line.contains("restarting")).unwrap();
        for figure in [" 100M ", " 100.0% ", " 8388ms ", " 99999 ", " 64/64G ", " 100000"] {
            assert!(row.contains(figure), "{figure:?} in {row}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.4, 99.94, 100.4, 99_999.0, 123_456.0, 2e8].map(rate);
        assert_eq!(shown, ["0.0", "0.4", "99.9", "100", "99999", "123k", "200M"]);
        let shown = [None, Some(64), Some(16_384), Some(20_000_000)].map(latency);
        assert_eq!(shown, ["-", "64us", "16ms", "20s"]);
        assert_eq!([None, Some(0), Some(987), Some(1000)].map(hits), ["-", "0.0%", "98.7%", "100.0%"]);
    }
}
