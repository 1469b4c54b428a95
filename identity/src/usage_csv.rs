//! What caches used, for spreadsheets and programs: RFC 4180. No text becomes a formula.

use store::UsageHour;

use crate::{escape_controls, time_text};

/// A spreadsheet reads a cell that begins with one of these as a formula.
const FORMULA: [char; 4] = ['=', '+', '-', '@'];

/// Whom a table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Operators: all columns.
    Operators,
    /// The user who has the cache: without what is the same in every row, and without the instance.
    Owner,
}

/// Columns of texts.
const TEXTS: [&str; 6] = ["user_id", "email", "cache_id", "cache", "instance_id", "plan"];
/// Columns of numbers.
const NUMBERS: [&str; 12] = [
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

impl Audience {
    /// The names of the columns.
    #[must_use]
    pub fn header(self) -> String {
        let texts = TEXTS.into_iter().filter(|name| self.sees(name));
        std::iter::once("hour").chain(texts).chain(NUMBERS).collect::<Vec<_>>().join(",") + "\r\n"
    }

    /// One hour.
    #[must_use]
    pub fn row(self, it: &UsageHour) -> String {
        let texts = [&it.user_id, &it.email, &it.cache_id, &it.cache, &it.instance_id, &it.plan];
        let texts = TEXTS.into_iter().zip(texts).filter(|(name, _)| self.sees(name));
        let cells = std::iter::once(time_text::rfc3339(it.hour))
            .chain(texts.map(|(_, text)| cell(text)))
            .chain(numbers(it).map(|number| number.to_string()));
        cells.collect::<Vec<_>>().join(",") + "\r\n"
    }

    fn sees(self, text: &str) -> bool {
        self == Self::Operators || matches!(text, "cache" | "plan")
    }
}

fn numbers(it: &UsageHour) -> [i64; NUMBERS.len()] {
    let usage = &it.usage;
    [
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
    ]
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
        let (operators, owner) = (Audience::Operators, Audience::Owner);
        assert_eq!(operators.row(&hour), expected);
        assert_eq!(operators.header().split(',').count(), expected.split(',').count());
        assert!(
            operators
                .header()
                .starts_with("hour,user_id,email,cache_id,cache,instance_id,plan,memory_mb_seconds,hits")
        );
        assert_eq!(owner.row(&hour), "2026-11-29T22:00:00Z,shop,small,230400,1,2,3,4,5,6,7,8,9,10,11\r\n");
        assert!(owner.header().starts_with("hour,cache,plan,memory_mb_seconds,hits,"));
        assert_eq!(owner.header().split(',').count(), owner.row(&hour).split(',').count());
    }
}
