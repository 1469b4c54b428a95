//! Rows for spreadsheets and programs: RFC 4180. No text becomes a formula.

use store::UsageHour;

use super::hour;
use crate::output::escape_controls;

/// A spreadsheet reads a cell that begins with one of these as a formula.
const FORMULA: [char; 4] = ['=', '+', '-', '@'];

const COLUMNS: [&str; 19] = [
    "hour",
    "user_id",
    "email",
    "cache_id",
    "cache",
    "instance_id",
    "plan",
    "memory_mb_seconds",
    "hits",
    "misses",
    "stores",
    "deletes",
    "arithmetic",
    "touches",
    "others",
    "errors",
    "bytes_in",
    "bytes_out",
    "peak_connections",
];

/// The names of the columns.
pub(super) fn header() -> String {
    COLUMNS.join(",") + "\r\n"
}

/// One hour.
pub(super) fn row(it: &UsageHour) -> String {
    let texts = [&it.user_id, &it.email, &it.cache_id, &it.cache, &it.instance_id, &it.plan];
    let usage = &it.usage;
    let numbers = [
        it.memory_mb_seconds,
        usage.hits,
        usage.misses,
        usage.stores,
        usage.deletes,
        usage.arithmetic,
        usage.touches,
        usage.others,
        usage.errors,
        usage.bytes_in,
        usage.bytes_out,
        it.peak_connections,
    ];
    let cells = std::iter::once(hour::to_text(it.hour))
        .chain(texts.into_iter().map(|text| cell(text)))
        .chain(numbers.iter().map(i64::to_string));
    cells.collect::<Vec<_>>().join(",") + "\r\n"
}

/// A text in quotes where it needs them, and with an apostrophe before what looks like a formula.
fn cell(text: &str) -> String {
    let text = escape_controls(text);
    let apostrophe = if text.trim_start().starts_with(FORMULA) { "'" } else { "" };
    if apostrophe.is_empty() && !text.contains([',', '"', ';', '\t']) {
        return text.into_owned();
    }
    format!("\"{apostrophe}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use store::{Timestamp, Usage};

    use super::*;

    //
    #[test]
    fn no_name_becomes_a_formula_or_another_cell() {
        for (text, written) in [
            ("ada@example.org", "ada@example.org"),
            ("=cmd|' /C calc'!A0", "\"'=cmd|' /C calc'!A0\""),
            ("+1@example.org", "\"'+1@example.org\""),
            ("-2+3", "\"'-2+3\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\t=1", "\"'\t=1\""),
            ("a\"b,c", "\"a\"\"b,c\""),
            ("a\r\nb", "a\\u000d\\u000ab"),
            ("", ""),
        ] {
            assert_eq!(cell(text), written, "{text:?}");
        }
    }

    #[test]
    fn each_column_has_its_value() {
        let usage = Usage {
            hits: 1,
            misses: 2,
            stores: 3,
            deletes: 4,
            arithmetic: 5,
            touches: 6,
            others: 7,
            errors: 8,
            bytes_in: 9,
            bytes_out: 10,
        };
        let hour = UsageHour {
            hour: Timestamp::from_millis(1_795_989_600_000),
            user_id: "u".to_owned(),
            email: "=a@example.org".to_owned(),
            cache_id: "c".to_owned(),
            cache: "shop".to_owned(),
            instance_id: "i".to_owned(),
            plan: "small".to_owned(),
            memory_mb_seconds: 230_400,
            usage,
            peak_connections: 11,
        };
        let expected =
            "2026-11-29T22:00:00Z,u,\"'=a@example.org\",c,shop,i,small,230400,1,2,3,4,5,6,7,8,9,10,11\r\n";
        assert_eq!(row(&hour), expected);
        assert_eq!(header().split(',').count(), row(&hour).split(',').count());
    }
}
