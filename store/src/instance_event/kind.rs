//! Causes and actions of events: a word for rows, metrics and JSON, and text for people.

/// Defines an enum whose variants each have a word and a text.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $(#[doc = $text] $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its word in rows, metric labels and JSON.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Its text for people.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            pub(super) fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }
    };
}

words! {
    /// Why a container needed a repair.
    EventCause {
        Stopped = "stopped", "the container was stopped from outside";
        Crashed = "crashed", "memcached ended by itself";
        OutOfMemory = "out_of_memory", "memcached was ended because its container had no memory left";
        Paused = "paused", "the container was paused from outside";
        Removed = "removed", "the container was removed from outside";
        Disconnected = "disconnected", "the container was disconnected from its network";
        NetworkBroken = "network_broken", "the network's bridge was removed or changed";
        AddressTaken = "address_taken", "something else has the container's address";
        Hung = "hung", "memcached didn't answer";
        Unreachable = "unreachable", "the container's network didn't answer";
        WrongSecret = "wrong_secret", "another memcached answered";
        LimitsChanged = "limits_changed", "the container's limits were changed from outside";
        Resized = "resized", "the cache's limits were changed";
        NotStarted = "not_started", "the container couldn't be started";
        Superseded = "superseded", "the container wasn't the recorded one";
        Unrestricted = "unrestricted", "the container lacked restrictions or published ports";
        OtherNetwork = "other_network", "the container was connected to another network";
        Reachable = "reachable", "the container could reach other containers or the host";
    }
}

words! {
    /// What was done about it.
    EventAction {
        Started = "started", "started again";
        Restarted = "restarted", "restarted by Docker";
        Unpaused = "unpaused", "unpaused";
        Replaced = "replaced", "replaced by a new container";
        Reattached = "reattached", "attached to its network again";
        LimitsRestored = "limits_restored", "limits restored";
        Detached = "detached", "disconnected from that network";
        FirewallRestored = "firewall_restored", "firewall restored";
        Failed = "failed", "not repaired yet";
    }
}
