//! The form of a plan: its fields as texts, and the plan that they mean.

use identity::plan_limits::{
    CONNECTIONS, ITEM_SIZE_MAX, MEMORY_MB, check_warm, parse_caches, parse_name, parse_number,
    parse_price_label, parse_rate, parse_sleep,
};
use serde::Deserialize;
use store::{CPU_WEIGHTS, Plan};

/// The fields as they were sent.
#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct PlanFields {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    memory_mb: String,
    #[serde(default)]
    connections: String,
    #[serde(default)]
    item_size_max: String,
    #[serde(default)]
    operations_per_second: String,
    #[serde(default)]
    bytes_per_second: String,
    #[serde(default)]
    sleep_after: String,
    #[serde(default)]
    cpu_weight: String,
    #[serde(default)]
    caches_per_user: String,
    #[serde(default)]
    price_label: String,
    warm: Option<String>,
    /// Leaves the memory of existing caches as it is.
    pub(super) new_caches_only: Option<String>,
    /// Lets items go that don't fit.
    pub(super) tick: Option<String>,
    #[serde(default)]
    pub(super) password: String,
    #[serde(default)]
    pub(super) code: String,
}

/// A field and the message beside it.
pub(super) type FieldError = (&'static str, String);

/// A text field of the page.
pub(super) struct TextField {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) hint: &'static str,
    pub(super) value: String,
}

impl PlanFields {
    /// The fields that mean a plan.
    pub(super) fn of(plan: &Plan) -> Self {
        let limit = |limit: Option<i64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
        Self {
            name: plan.name.clone(),
            memory_mb: plan.memory_mb.to_string(),
            connections: plan.connections.to_string(),
            item_size_max: plan.item_size_max.to_string(),
            operations_per_second: limit(plan.operations_per_second),
            bytes_per_second: limit(plan.bytes_per_second),
            sleep_after: plan.sleep_after_seconds.map_or_else(|| "never".to_owned(), |it| format!("{it}s")),
            cpu_weight: plan.cpu_weight.to_string(),
            caches_per_user: limit(plan.caches_per_user),
            price_label: plan.price_label.clone().unwrap_or_default(),
            warm: plan.warm.then(String::new),
            ..Self::default()
        }
    }

    /// The same fields with another name.
    pub(super) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// The plan that they mean.
    ///
    /// # Errors
    ///
    /// Each field that means nothing, with what to write instead.
    pub(super) fn plan(&self) -> Result<Plan, Vec<FieldError>> {
        let mut errors = Vec::new();
        let number = |text: &str, range| parse_number(text.trim(), &range);
        let plan = Plan {
            name: keep(&mut errors, "name", parse_name(self.name.trim())),
            memory_mb: keep(&mut errors, "memory_mb", number(&self.memory_mb, MEMORY_MB)),
            connections: keep(&mut errors, "connections", number(&self.connections, CONNECTIONS)),
            item_size_max: keep(&mut errors, "item_size_max", number(&self.item_size_max, ITEM_SIZE_MAX)),
            operations_per_second: keep(
                &mut errors,
                "operations_per_second",
                parse_rate(self.operations_per_second.trim()),
            ),
            bytes_per_second: keep(&mut errors, "bytes_per_second", parse_rate(self.bytes_per_second.trim())),
            warm: self.warm.is_some(),
            sleep_after_seconds: keep(&mut errors, "sleep_after", parse_sleep(self.sleep_after.trim())),
            cpu_weight: keep(&mut errors, "cpu_weight", number(&self.cpu_weight, CPU_WEIGHTS)),
            caches_per_user: keep(&mut errors, "caches_per_user", parse_caches(self.caches_per_user.trim())),
            price_label: keep(&mut errors, "price_label", parse_price_label(self.price_label.trim())),
        };
        if errors.is_empty()
            && let Err(min) = check_warm(&plan)
        {
            errors.push(("memory_mb", format!("A warm plan needs at least {min} MB. Give it that or more.")));
        }
        if errors.is_empty() { Ok(plan) } else { Err(errors) }
    }

    pub(super) fn is_warm(&self) -> bool {
        self.warm.is_some()
    }

    /// Those that are texts, but the name.
    pub(super) fn texts(&self) -> Vec<TextField> {
        let field = |name, label, hint, value: &String| TextField { name, label, hint, value: value.clone() };
        vec![
            field("memory_mb", "Memory", "For items, in MB.", &self.memory_mb),
            field("connections", "Connections", "Of clients, at each proxy.", &self.connections),
            field("item_size_max", "Item size", "Bytes of a key with its value.", &self.item_size_max),
            field(
                "operations_per_second",
                "Operations per second",
                "At each proxy; none for no limit.",
                &self.operations_per_second,
            ),
            field(
                "bytes_per_second",
                "Bytes per second",
                "Of requests and replies, at each proxy; none for no limit.",
                &self.bytes_per_second,
            ),
            field(
                "sleep_after",
                "Sleeps after",
                "A time without a command, like 30m, 1h or 7d; or never.",
                &self.sleep_after,
            ),
            field("cpu_weight", "CPU weight", "100 is the usual share.", &self.cpu_weight),
            field(
                "caches_per_user",
                "Caches per user",
                "none for the setting limits.caches_per_user.",
                &self.caches_per_user,
            ),
            field(
                "price_label",
                "Price",
                "A text for users; nothing is charged. May be empty.",
                &self.price_label,
            ),
        ]
    }
}

/// The value, or its type's default and an error.
fn keep<T: Default>(errors: &mut Vec<FieldError>, name: &'static str, parsed: Result<T, String>) -> T {
    parsed.unwrap_or_else(|fix| {
        let mut text = fix;
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        errors.push((name, format!("{text}.")));
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            name: "small".to_owned(),
            memory_mb: 64,
            connections: 100,
            item_size_max: 1 << 20,
            operations_per_second: None,
            bytes_per_second: Some(5),
            warm: true,
            sleep_after_seconds: Some(3600),
            cpu_weight: 100,
            caches_per_user: None,
            price_label: Some("5 EUR".to_owned()),
        }
    }

    #[test]
    fn fields_of_a_plan_mean_it() {
        assert_eq!(PlanFields::of(&plan()).plan(), Ok(plan()));
        let none = Plan { sleep_after_seconds: None, warm: false, price_label: None, ..plan() };
        assert_eq!(PlanFields::of(&none).plan(), Ok(none));
    }

    #[test]
    fn each_wrong_field_has_its_message() {
        let wrong =
            PlanFields { memory_mb: "0".to_owned(), cpu_weight: "x".to_owned(), ..PlanFields::of(&plan()) };
        let errors = wrong.plan().unwrap_err();
        assert_eq!(errors[0], ("memory_mb", "Use a whole number from 1 to 1048576.".to_owned()));
        assert_eq!(errors[1].0, "cpu_weight");
        let cold = PlanFields { memory_mb: "32".to_owned(), ..PlanFields::of(&plan()) };
        assert_eq!(cold.plan().unwrap_err()[0].1, "A warm plan needs at least 64 MB. Give it that or more.");
        assert_eq!(PlanFields::default().plan().unwrap_err().len(), 9);
    }
}
