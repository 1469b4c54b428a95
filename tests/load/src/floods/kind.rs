//! The known floods: their names, and what each of them takes.

use std::time::Duration;

use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

/// A flood. Its name on the command line and in results is in kebab case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Web connections that ask for an asset 400 times and never read
    WebUnread,
    /// Sign-ins from one source, each with a new e-mail address
    SignInSpray,
    /// The same from 250 sources
    SignInSpraySources,
    /// 500 sign-ins at once, again and again, each from a source of its own
    SignInsAtOnce,
    /// Silent connections to the proxy from 400 networks
    HalfOpenNetworks,
    /// The same, each with the first byte of a login
    HalfOpenByte,
    /// Silent connections from the victim's own address
    HalfOpenNeighbour,
    /// Idle connections to the proxy's health port
    HealthProxy,
    /// Idle connections to the provisioner's health port
    HealthProvisioner,
    /// Idle connections to the web UI's health port
    HealthWebui,
    /// One tenant's unfinished sets of 131,000 bytes
    UnfinishedSets,
    /// The same, with unread replies in addition
    UnfinishedUnread,
    /// `mn` over the rate of a plan of 10 operations a second
    OverRateMn,
    /// Unknown commands over that rate
    OverRateBogus,
    /// Binary no-ops over that rate
    OverRateNoop,
    /// Gets over that rate
    OverRateGet,
    /// Connections of an unprivileged local process to the victim's container
    ContainerPort,
    /// Wrong logins from one address
    WrongLogins,
    /// No traffic: the CPU time of a flood alone
    CpuOnly,
}

/// The account whose credentials a flood uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// A user with the default plan.
    Attacker,
    /// A user with a plan of 10 operations a second.
    Limited,
    /// The victim: only its username is used, or its container.
    Victim,
}

/// A role of memgate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Proxy,
    Provisioner,
    Webui,
}

impl Role {
    pub(super) const ALL: [Self; 3] = [Self::Proxy, Self::Provisioner, Self::Webui];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Provisioner => "provisioner",
            Self::Webui => "webui",
        }
    }
}

impl Kind {
    /// Every flood that is measured, in the table's order.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied().filter(|kind| *kind != Self::CpuOnly)
    }

    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Connections that it holds open, or opens again and again.
    pub(super) fn connections(self) -> usize {
        match self {
            Self::WebUnread => 2_060,
            Self::SignInsAtOnce => 500,
            Self::SignInSpray | Self::SignInSpraySources | Self::HalfOpenNeighbour => 1_000,
            Self::HalfOpenNetworks | Self::HalfOpenByte => 25_000,
            Self::HealthProxy | Self::HealthProvisioner | Self::HealthWebui => 20_000,
            Self::UnfinishedSets | Self::UnfinishedUnread => 6_000,
            Self::OverRateMn | Self::OverRateBogus | Self::OverRateNoop | Self::OverRateGet => 8,
            Self::ContainerPort => 1_100,
            Self::WrongLogins => 256,
            Self::CpuOnly => 0,
        }
    }

    /// Connections that it opens per second, at most.
    pub(super) fn connects_per_second(self) -> f64 {
        match self {
            Self::HalfOpenNeighbour => 250.0,
            Self::HalfOpenNetworks | Self::HalfOpenByte => 5_000.0,
            Self::HealthProxy | Self::HealthProvisioner | Self::HealthWebui => 4_000.0,
            // Each connection carries three logins: 10,000 a second.
            Self::WrongLogins => 10_000.0 / 3.0,
            _ => 1_000.0,
        }
    }

    /// The role that it is aimed at.
    pub(super) fn role(self) -> Role {
        match self {
            Self::WebUnread
            | Self::SignInSpray
            | Self::SignInSpraySources
            | Self::SignInsAtOnce
            | Self::HealthWebui => Role::Webui,
            Self::HealthProvisioner => Role::Provisioner,
            _ => Role::Proxy,
        }
    }

    /// The least time that it runs.
    pub(super) fn duration_min(self) -> Duration {
        match self {
            // The provisioner looks at every container, and so at a full one, each 30 s.
            Self::ContainerPort => Duration::from_secs(35),
            _ => Duration::ZERO,
        }
    }

    /// Whether the victim is measured once more after it.
    pub(super) fn is_measured_after(self) -> bool {
        self == Self::SignInsAtOnce
    }

    pub(super) fn account(self) -> Account {
        match self {
            Self::OverRateMn | Self::OverRateBogus | Self::OverRateNoop | Self::OverRateGet => {
                Account::Limited
            }
            Self::ContainerPort | Self::WrongLogins => Account::Victim,
            _ => Account::Attacker,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_results_and_on_the_command_line() {
        for kind in Kind::all() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert!(Kind::all().all(|kind| kind.connections() > 0));
    }
}
