//! The table in Markdown. Pure.

use super::summary::Point;

const HEAD: &str = "| value/connections/pipeline | backend | target | ops/s (spread) | / direct (spread) | p50 | p99 | p99.9 us | p99 / direct | CPU s/M proxy (user) | memcached | generator (share) | remarks |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

const PAGE: &str = "# memgate beside its peers

Written by `./deploy/bench --save docs`; bench.json has the same figures, and bench.svg is a chart of them. 90 % get, 10 % set,
30-byte keys. `direct` is memcached without a proxy: in the container that memgate created, over the bridge and with a
login, or on loopback without one. memgate always authenticates, checks permissions and uses the bridge; HAProxy, nginx
and twemproxy forward bytes. Runs of all targets alternate; figures are medians, with the lowest and highest run. In
pipelined rows the ratio is to the faster of meta and classic commands.

";

/// The page docs/bench.md.
pub(super) fn page(points: &[Point]) -> String {
    PAGE.to_owned() + &all(points)
}

pub(super) fn all(points: &[Point]) -> String {
    let (memory, timed): (Vec<&Point>, Vec<&Point>) =
        points.iter().partition(|point| point.bytes_per_connection.is_some());
    let mut text = String::new();
    if !timed.is_empty() {
        text += HEAD;
        timed.iter().for_each(|point| text += &(line(point) + "\n"));
        text += "\nThe machine is shared with other work: compare ratios, not ops/s.\n";
    }
    if !memory.is_empty() {
        text += "\n| idle connections | target | bytes per connection | after a get | remarks |\n|---|---|---|---|---|\n";
    }
    for point in memory {
        let [idle, after_get] = point.bytes_per_connection.unwrap_or_default();
        let (connections, target, remarks) = (point.connections, &point.target, point.remarks.join("; "));
        let tls = if point.tls { " TLS" } else { "" };
        text += &format!("| {connections} | {target}{tls} | {idle:.0} | {after_get:.0} | {remarks} |\n");
    }
    text
}

pub(super) fn line(point: &Point) -> String {
    let Point { row, backend, target, protocol, ops_per_s, p50_us, p99_us, p999_us, .. } = point;
    let protocol = if point.tls { format!("{protocol}, TLS") } else { protocol.clone() };
    let remarks = point.remarks.join("; ");
    if *ops_per_s == 0.0 {
        return format!("| {row} | {backend} | {target} {protocol} | | | | | | | | | | {remarks} |");
    }
    let [low, high] = point.ops_per_s_spread;
    let optional = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let cpu = |name: &str| optional(point.cpu_s_per_million.get(name).copied());
    let ratio = match (point.ratio_to_direct, point.ratio_spread) {
        (Some(ratio), Some([low, high])) => format!("{ratio:.2} ({low:.2}-{high:.2})"),
        _ => "-".to_owned(),
    };
    format!(
        "| {row} | {backend} | {target} {protocol} | {ops_per_s:.0} ({low:.0}-{high:.0}) | {ratio} \
         | {p50_us:.0} | {p99_us:.0} | {p999_us:.0} | {} | {} ({}) | {} | {} ({:.0} %) | {remarks} |",
        optional(point.p99_to_direct),
        cpu("proxy"),
        optional(point.proxy_user_s_per_million),
        cpu("memcached"),
        cpu("generator"),
        point.generator_share * 100.0,
    )
}
