//! Charts: numbers become paths of an SVG of 1000 by 1000 units, labels of its axes, and rows of a table. Pure, and without
//! fractions: nothing here overflows, whatever the store says.

use super::number;

/// Units of the SVG in each direction.
const SIDE: i64 = 1_000;
/// Of a bar's place, the part that stays empty, in hundredths.
const BAR_GAP: i64 = 20;

/// What a number of a chart is, which decides its scale and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Thousandths of a whole.
    Share,
    /// Tenths per second.
    Rate,
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    ByteRate,
    /// Hundredths of a gigabyte for an hour.
    GigabyteHours,
}

/// How series are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Lines,
    /// Of one series.
    Bars,
}

/// What a chart shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// What the numbers mean, and what a change usually means.
    pub(crate) meaning: &'static str,
    pub(crate) unit: Unit,
    pub(crate) shape: Shape,
}

/// Numbers of a chart, one for each time; `None` where nothing is known.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) values: Vec<Option<i64>>,
}

/// A chart as its template shows it.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) about: About,
    pub(crate) drawn: Vec<Drawn>,
    /// What the upper edge stands for.
    pub(crate) top: String,
    /// Labels of the times at the left, in the middle and at the right.
    pub(crate) times: Vec<String>,
    /// What a screen reader says instead of the picture.
    pub(crate) summary: String,
    /// A time and its values, oldest first; without times of which nothing is known.
    pub(crate) rows: Vec<(String, Vec<String>)>,
}

/// A series as paths.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) name: &'static str,
    /// A line, or bars.
    pub(crate) path: String,
    /// The surface below the line of an only series.
    pub(crate) area: String,
}

impl Chart {
    /// `times` has the label of each value.
    pub(crate) fn new(about: About, times: &[String], series: &[Series]) -> Self {
        let highest = series.iter().flat_map(|it| it.values.iter().flatten()).copied().max();
        let top = about.unit.top(highest.unwrap_or(0));
        let is_only = series.len() == 1;
        let rows =
            times.iter().enumerate().filter_map(|(i, time)| row(about.unit, time, i, series)).collect();
        let ends = [times.first(), times.get(times.len() / 2), times.last()];
        Self {
            summary: summary(&about, series),
            drawn: series.iter().map(|it| Drawn::new(about.shape, it, top, is_only)).collect(),
            about,
            top: about.unit.text(top),
            times: ends.into_iter().flatten().cloned().collect(),
            rows,
        }
    }

    pub(crate) fn is_bars(&self) -> bool {
        self.about.shape == Shape::Bars
    }
}

fn row(unit: Unit, time: &str, i: usize, series: &[Series]) -> Option<(String, Vec<String>)> {
    let values: Vec<Option<i64>> = series.iter().map(|it| it.values.get(i).copied().flatten()).collect();
    let text = |value: &Option<i64>| value.map_or_else(|| "–".to_owned(), |value| unit.text(value));
    let is_known = values.iter().any(Option::is_some);
    is_known.then(|| (time.to_owned(), values.iter().map(text).collect()))
}

/// `Hit rate: last 91.2 %, lowest 80.0 %, highest 95.1 %.`
fn summary(about: &About, series: &[Series]) -> String {
    let mut text = about.title.to_owned();
    for it in series {
        let known = || it.values.iter().flatten().copied();
        let name = if series.len() == 1 { String::new() } else { format!(" {}:", it.name) };
        let [last, lowest, highest] = [known().next_back(), known().min(), known().max()]
            .map(|value| value.map_or_else(|| "unknown".to_owned(), |value| about.unit.text(value)));
        let sign = if text.len() == about.title.len() { ':' } else { ';' };
        text.push_str(&format!("{sign}{name} last {last}, lowest {lowest}, highest {highest}"));
    }
    text
}

impl Drawn {
    fn new(shape: Shape, series: &Series, top: i64, is_only: bool) -> Self {
        let (path, area) = match shape {
            Shape::Bars => (bars(&series.values, top), String::new()),
            Shape::Lines => lines(&series.values, top, is_only),
        };
        Self { name: series.name, path, area }
    }
}

/// A line through each run of known values, and the surface below it.
fn lines(values: &[Option<i64>], top: i64, with_area: bool) -> (String, String) {
    let last = i64::try_from(values.len()).unwrap_or(i64::MAX).saturating_sub(1).max(1);
    let (mut line, mut area) = (String::new(), String::new());
    let points: Vec<Option<(i64, i64)>> = (0..)
        .zip(values)
        .map(|(i, value)| value.map(|value| (scaled(i, last), SIDE - scaled(value, top))))
        .collect();
    for run in points.split(Option::is_none) {
        let run: Vec<(i64, i64)> = run.iter().flatten().copied().collect();
        let ([(first, _), ..], [.., (end, _)]) = (&*run, &*run) else { continue };
        let path: Vec<String> = run.iter().map(|(x, y)| format!("{x} {y}")).collect();
        let path = path.join("L");
        // Round caps make a dot of a line without length.
        line.push_str(&format!("M{path}{}", if run.len() == 1 { "h0" } else { "" }));
        if with_area {
            area.push_str(&format!("M{first} {SIDE}L{path}L{end} {SIDE}Z"));
        }
    }
    (line, area)
}

fn bars(values: &[Option<i64>], top: i64) -> String {
    let count = i64::try_from(values.len()).unwrap_or(i64::MAX).max(1);
    let mut path = String::new();
    for (i, value) in (0..).zip(values) {
        let Some(value) = value.filter(|value| *value > 0) else { continue };
        let (left, width) = (i * SIDE / count, SIDE / count * (100 - BAR_GAP) / 100);
        // The smallest is seen, too.
        let height = scaled(value, top).max(SIDE / 100);
        path.push_str(&format!("M{left} {SIDE}V{}h{width}V{SIDE}Z", SIDE - height));
    }
    path
}

/// Units of the SVG.
fn scaled(value: i64, whole: i64) -> i64 {
    let units = i128::from(value.max(0)) * i128::from(SIDE) / i128::from(whole.max(1));
    i64::try_from(units).unwrap_or(SIDE).min(SIDE)
}

impl Unit {
    /// A round number that no value exceeds.
    fn top(self, highest: i64) -> i64 {
        match self {
            Self::Share => 1_000,
            Self::Rate | Self::GigabyteHours => round_up(highest, 10),
            Self::Count => round_up(highest, 1),
            Self::Bytes | Self::ByteRate => {
                let power = u64::try_from(highest).unwrap_or(0).max(1024).next_power_of_two();
                i64::try_from(power).unwrap_or(i64::MAX)
            }
        }
    }

    /// A value for people.
    pub(crate) fn text(self, value: i64) -> String {
        let value = value.max(0);
        match self {
            Self::Share => number::percent(value),
            Self::Rate => number::tenths(value),
            Self::Count => number::grouped(value),
            Self::Bytes => number::bytes(value),
            Self::ByteRate => format!("{}/s", number::bytes(value)),
            Self::GigabyteHours => number::hundredths(value),
        }
    }
}

/// The smallest of `least` times 1, 2, 5, 10, 20, 50 and so on that isn't less than `value`.
fn round_up(value: i64, least: i64) -> i64 {
    let mut power = least;
    loop {
        for factor in [1, 2, 5] {
            let round = power.saturating_mul(factor);
            if round >= value || round == i64::MAX {
                return round;
            }
        }
        power = power.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: About =
        About { id: "x", title: "Hit rate", meaning: "", unit: Unit::Share, shape: Shape::Lines };

    fn chart(about: About, series: Vec<Vec<Option<i64>>>) -> Chart {
        let count = series[0].len();
        let series: Vec<Series> = series
            .into_iter()
            .zip(["hits", "misses"])
            .map(|(values, name)| Series { name, values })
            .collect();
        let times: Vec<String> = (0..count).map(|hour| format!("{hour}:00")).collect();
        Chart::new(about, &times, &series)
    }

    #[test]
    fn lines_break_where_nothing_is_known() {
        let chart = chart(LINES, vec![vec![Some(1_000), Some(500), None, Some(0), None]]);
        assert_eq!(chart.drawn[0].path, "M0 0L250 500M750 1000h0");
        assert_eq!(chart.drawn[0].area, "M0 1000L0 0L250 500L250 1000ZM750 1000L750 1000L750 1000Z");
        assert_eq!(
            (chart.top.as_str(), chart.times),
            ("100.0 %", ["0:00", "2:00", "4:00"].map(String::from).to_vec())
        );
        assert_eq!(chart.summary, "Hit rate: last 0.0 %, lowest 0.0 %, highest 100.0 %");
        let rows = [("0:00", "100.0 %"), ("1:00", "50.0 %"), ("3:00", "0.0 %")];
        let expected: Vec<_> =
            rows.iter().map(|(time, value)| ((*time).to_owned(), vec![(*value).to_owned()])).collect();
        assert_eq!(chart.rows, expected);
    }

    #[test]
    fn several_series_share_a_scale() {
        let about = About { title: "Operations", unit: Unit::Rate, ..LINES };
        let chart = chart(about, vec![vec![Some(20), Some(40)], vec![Some(160), None]]);
        assert_eq!(chart.top, "20.0");
        let paths: Vec<&str> = chart.drawn.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["M0 900L1000 800", "M0 200h0"]);
        assert!(chart.drawn.iter().all(|it| it.area.is_empty()));
        assert_eq!(
            chart.summary,
            "Operations: hits: last 4.0, lowest 2.0, highest 4.0; misses: last 16.0, lowest 16.0, highest 16.0"
        );
        assert_eq!(chart.rows[1].1, ["4.0", "–"]);
    }

    #[test]
    fn bars_stand_on_the_ground() {
        let about = About { unit: Unit::Count, shape: Shape::Bars, ..LINES };
        let chart = chart(about, vec![vec![Some(10), Some(0), None, Some(1)]]);
        assert_eq!(chart.drawn[0].path, "M0 1000V0h200V1000ZM750 1000V900h200V1000Z");
        assert_eq!(chart.top, "10");
    }

    //
    #[test]
    fn scales_hold_every_value() {
        for (unit, highest, top) in [
            (Unit::Count, 0, 1),
            (Unit::Count, 3, 5),
            (Unit::Count, 101, 200),
            (Unit::Rate, 0, 10),
            (Unit::Bytes, 0, 1 << 10),
            (Unit::Bytes, 64 << 20, 64 << 20),
            (Unit::ByteRate, 600 << 20, 1 << 30),
            (Unit::Bytes, i64::MIN, 1 << 10),
            (Unit::Count, i64::MAX, i64::MAX),
            (Unit::Bytes, i64::MAX, i64::MAX),
            (Unit::Count, i64::MIN, 1),
        ] {
            assert_eq!(unit.top(highest), top, "{unit:?} {highest}");
        }
        let absurd = chart(LINES, vec![vec![Some(i64::MAX), Some(i64::MIN)]]);
        assert_eq!(absurd.drawn[0].path, "M0 0L1000 1000");
        assert_eq!(chart(LINES, vec![vec![]]).drawn[0].path, "");
    }
}
