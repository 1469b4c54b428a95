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
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes() {
        assert_eq!(grouped(20_000), "20,000");
        assert_eq!(grouped(999), "999");
        assert_eq!(size(1 << 20), "1 MB");
        assert_eq!(size(512 << 10), "512 KB");
        assert_eq!(size(1000), "1,000 bytes");
    }
}
