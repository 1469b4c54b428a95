//! Numbers and sizes for people.

/// A size in the largest unit that divides it: `1 MB`, `512 KB`, `1,000 bytes`.
pub(crate) fn size(bytes: i64) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => format!("{} MB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes % (1 << 10) == 0 => format!("{} KB", bytes >> 10),
        _ => format!("{} bytes", grouped(bytes)),
    }
}

/// A number with thousands separators: `20,000`.
pub(crate) fn grouped(number: i64) -> String {
    let (sign, digits) = (if number < 0 { "-" } else { "" }, number.unsigned_abs().to_string());
    let mut text = sign.to_owned();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Thousandths as a share: `91.2 %`.
pub(crate) fn percent(thousandths: i64) -> String {
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

/// A number that is given in tenths: `12.3`, `1,234`.
pub(crate) fn tenths(tenths: i64) -> String {
    match tenths {
        ..1_000 => format!("{}.{}", tenths / 10, tenths % 10),
        _ => grouped(tenths / 10),
    }
}

/// A number that is given in hundredths: `1.05`.
pub(crate) fn hundredths(hundredths: i64) -> String {
    format!("{}.{:02}", grouped(hundredths / 100), hundredths % 100)
}

/// An amount of bytes, rounded down: `512 bytes`, `12.4 MB`.
pub(crate) fn bytes(bytes: i64) -> String {
    let in_units = |shift: u32, unit: &str| {
        let tenths = (bytes >> shift) * 10 + (((bytes & ((1 << shift) - 1)) * 10) >> shift);
        format!("{}.{} {unit}", grouped(tenths / 10), tenths % 10)
    };
    match bytes {
        ..1024 => format!("{} bytes", bytes.max(0)),
        1024..0x10_0000 => in_units(10, "KB"),
        0x10_0000..0x4000_0000 => in_units(20, "MB"),
        _ => in_units(30, "GB"),
    }
}

/// A short time in microseconds: `128 µs`, `4.1 ms`.
pub(crate) fn microseconds(us: i64) -> String {
    match us {
        ..1_000 => format!("{} µs", us.max(0)),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes() {
        assert_eq!(grouped(20_000), "20,000");
        assert_eq!([grouped(999), grouped(-999)], ["999", "-999"]);
        assert_eq!(size(1 << 20), "1 MB");
        assert_eq!(size(512 << 10), "512 KB");
        assert_eq!(size(1000), "1,000 bytes");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([percent(0), percent(912), percent(1_000)], ["0.0 %", "91.2 %", "100.0 %"]);
        assert_eq!([tenths(3), tenths(999), tenths(12_349)], ["0.3", "99.9", "1,234"]);
        assert_eq!([hundredths(5), hundredths(123_456)], ["0.05", "1,234.56"]);
        let sizes = [-1, 1023, 1024, 13 << 19, (3 << 30) - 1, 3 << 30, i64::MAX].map(bytes);
        let expected =
            ["0 bytes", "1023 bytes", "1.0 KB", "6.5 MB", "2.9 GB", "3.0 GB", "8,589,934,591.9 GB"];
        assert_eq!(sizes, expected);
        assert_eq!([128, 4_096, 1_250_000].map(microseconds), ["128 µs", "4.0 ms", "1.2 s"]);
    }
}
