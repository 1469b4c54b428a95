//! Quantiles of latency histograms. Pure.

/// The upper bound in microseconds of the fastest so many thousandths of all requests: 500 is the median, 999 is p99.9.
/// `None` without requests. `latency` is what [`crate::Store::latency`] returns.
#[must_use]
pub fn latency_quantile_us(latency: &[(i64, i64)], thousandths: i64) -> Option<i64> {
    let total: i128 = latency.iter().map(|(_, requests)| i128::from(*requests)).sum();
    let mut below = 0;
    latency.iter().find_map(|(bound, requests)| {
        below += i128::from(*requests);
        (below * 1_000 >= total * i128::from(thousandths) && total > 0).then_some(*bound)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_upper_bounds() {
        let latency = [(64, 500), (128, 490), (1024, 9), (4096, 1)];
        let quantiles = [500, 990, 999, 1_000].map(|thousandths| latency_quantile_us(&latency, thousandths));
        assert_eq!(quantiles, [Some(64), Some(128), Some(1024), Some(4096)]);
        assert_eq!(latency_quantile_us(&[], 500), None);
    }

    //
    #[test]
    fn absurd_numbers_have_quantiles() {
        let (max, min) = (i64::MAX, i64::MIN);
        assert_eq!(latency_quantile_us(&[(max, max), (max, max), (min, min)], 500), Some(max));
        assert_eq!(latency_quantile_us(&[(1, min), (2, 1)], 990), None);
    }
}
