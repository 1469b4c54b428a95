//! When a cache sleeps, as its user may choose it: as the plan says, or earlier.

use identity::sleep::sleep_after_text;

use super::date::exactly;

/// Times that the page offers, in seconds.
const OFFERED: [i64; 7] = [300, 900, 3600, 6 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600];

/// The choices of the form.
pub(crate) struct SleepForm {
    pub(crate) choices: Vec<SleepChoice>,
}

pub(crate) struct SleepChoice {
    /// What the form sends.
    pub(crate) value: String,
    pub(crate) title: String,
    pub(crate) is_current: bool,
}

impl SleepForm {
    /// With the time that its user has chosen, and the plan's, in seconds. A choice that is no earlier than the plan's says
    /// nothing, so it isn't shown.
    pub(crate) fn new(own: Option<i64>, of_plan: Option<i64>) -> Self {
        let is_earlier = |seconds: &i64| of_plan.is_none_or(|max| *seconds < max);
        let own = own.filter(is_earlier);
        let mut times: Vec<i64> = OFFERED.into_iter().filter(is_earlier).chain(own).collect();
        times.sort_unstable();
        times.dedup();
        let plan = of_plan.map_or("never".to_owned(), |seconds| format!("after {}", exactly(seconds)));
        let plan = SleepChoice {
            value: sleep_after_text(None),
            title: format!("As the plan says: {plan}"),
            is_current: own.is_none(),
        };
        let time = |seconds: i64| SleepChoice {
            value: sleep_after_text(Some(seconds)),
            title: format!("After {}", exactly(seconds)),
            is_current: own == Some(seconds),
        };
        Self { choices: std::iter::once(plan).chain(times.into_iter().map(time)).collect() }
    }

    /// Whether there is anything to choose.
    pub(crate) fn is_open(&self) -> bool {
        self.choices.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(own: Option<i64>, of_plan: Option<i64>) -> (Vec<String>, String) {
        let form = SleepForm::new(own, of_plan);
        let current: Vec<_> =
            form.choices.iter().filter(|it| it.is_current).map(|it| it.value.clone()).collect();
        assert_eq!(current.len(), 1);
        (form.choices.into_iter().map(|it| it.value).collect(), current.concat())
    }

    #[test]
    fn no_choice_is_later_than_the_plan() {
        let all = ["plan", "5m", "15m", "1h", "6h", "12h", "1d", "7d"].map(str::to_owned).to_vec();
        assert_eq!(shown(None, None), (all.clone(), "plan".into()));
        assert_eq!(shown(Some(86_400), None), (all, "1d".into()));
        let some = ["plan", "5m", "15m"].map(str::to_owned).to_vec();
        assert_eq!(shown(Some(900), Some(3600)), (some.clone(), "15m".into()));
        assert_eq!(shown(Some(7200), Some(3600)), (some, "plan".into()), "the plan has become shorter");
        assert_eq!(shown(Some(90), Some(100)).0, ["plan", "90s"]);
        assert!(!SleepForm::new(None, Some(300)).is_open());
    }
}
