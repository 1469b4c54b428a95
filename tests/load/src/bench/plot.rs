//! The chart: each target's throughput as a share of direct access in the same round. Pure.

use std::fmt::Write as _;

use super::summary::Point;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 70.0;
const BAR: f64 = 11.0;
const GAP: f64 = 14.0;

/// The targets that are drawn, with their colours.
const TARGETS: [(&str, &str); 4] =
    [("memgate", "#0b6e4f"), ("haproxy", "#c1666b"), ("nginx", "#d4b483"), ("twemproxy", "#8a8d91")];

/// A bar per row and target, with a line for the spread of the runs.
pub(super) fn svg(points: &[Point]) -> String {
    let drawn: Vec<&Point> = points.iter().filter(|point| colour(point).is_some()).collect();
    let mut rows: Vec<&str> = drawn.iter().map(|point| point.row.as_str()).collect();
    rows.dedup();
    let max = drawn.iter().filter_map(|point| point.ratio_spread).fold(1.0, |max, [_, high]| high.max(max));
    let x = |ratio: f64| LEFT + ratio / max * (WIDTH - LEFT - RIGHT);
    let mut body = String::new();
    let mut y = TOP;
    for row in rows {
        let bars: Vec<&&Point> = drawn.iter().filter(|point| point.row == row).collect();
        let middle = y + BAR * bars.len() as f64 / 2.0 + 4.0;
        let _ = writeln!(body, r#"<text x="{}" y="{middle}" text-anchor="end">{row}</text>"#, LEFT - 8.0);
        for point in bars {
            let (Some(ratio), Some([low, high]), Some(colour)) =
                (point.ratio_to_direct, point.ratio_spread, colour(point))
            else {
                continue;
            };
            let (width, middle, behind) = (x(ratio) - LEFT, y + BAR / 2.0, x(high) + 5.0);
            let _ = writeln!(
                body,
                r##"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="{}" fill="{colour}"/><path d="M{:.1} {middle}H{:.1}" stroke="#222"/><text x="{behind:.1}" y="{:.1}" class="n">{ratio:.2}</text>"##,
                BAR - 1.0,
                x(low),
                x(high),
                y + BAR - 2.0,
            );
            y += BAR;
        }
        y += GAP;
    }
    let height = y + 10.0;
    let mut head = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11"><style>.n{{font-size:9px}}</style><rect width="100%" height="100%" fill="#fff"/><text x="{LEFT}" y="22" font-size="14">Throughput, direct to the same memcached = 1 (value/connections/pipeline)</text>"##
    );
    for (at, (name, colour)) in TARGETS.iter().enumerate() {
        let x = LEFT + 110.0 * at as f64;
        let _ = write!(
            head,
            r##"<rect x="{x}" y="34" width="10" height="10" fill="{colour}"/><text x="{}" y="43">{name}</text>"##,
            x + 15.0
        );
    }
    let _ = write!(
        head,
        r##"<path d="M{0:.1} {1}V{2}" stroke="#222" stroke-dasharray="3 3"/><text x="{0:.1}" y="{3}" text-anchor="middle" class="n">direct</text>"##,
        x(1.0),
        TOP - 6.0,
        y,
        TOP - 9.0,
    );
    format!("{head}\n{body}</svg>\n")
}

fn colour(point: &Point) -> Option<&'static str> {
    point.ratio_to_direct?;
    TARGETS.iter().find(|(name, _)| *name == point.target).map(|(_, colour)| *colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_with_a_ratio_has_a_bar() {
        let point = |target: &str, ratio| Point {
            row: "100B/50/1 closed text".into(),
            target: target.into(),
            ratio_to_direct: ratio,
            ratio_spread: ratio.map(|ratio: f64| [ratio - 0.1, ratio + 0.1]),
            ..Point::default()
        };
        let svg = svg(&[point("memgate", Some(1.4)), point("haproxy", Some(0.6)), point("direct", None)]);
        assert_eq!(svg.matches("class=\"n\">1.40<").count(), 1);
        assert_eq!(svg.matches("<rect").count(), 1 + TARGETS.len() + 2);
        assert_eq!(svg.matches("100B/50/1").count(), 1);
    }
}
