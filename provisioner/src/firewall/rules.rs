//! The rules of the firewall's table, as text for nft, and the check of what nft lists. Pure.

use std::collections::BTreeSet;

use crate::names::Names;

/// The user ids that may open connections to containers.
pub(super) type AllowedUsers = BTreeSet<u32>;

/// The rules of each chain, in the format in which nft lists them.
///
/// Containers may reply to the host, and open no connection. Of the host's processes, only those of the allowed
/// users may send anything to a container. A packet without a socket (a reset, the last packets of a closed
/// connection) has no user, and passes only within an established connection.
fn rules(names: &Names, users: &AllowedUsers) -> [(&'static str, String); 3] {
    let bridges = format!("\"{}*\"", names.bridge(0).trim_end_matches('0'));
    let input = format!("iifname {bridges} ct state established,related accept\niifname {bridges} drop\n");
    let forward = format!("iifname {bridges} drop\noifname {bridges} drop\n");
    let mut output = String::new();
    for user in users {
        output.push_str(&format!("oifname {bridges} meta skuid {user} accept\n"));
    }
    output.push_str(&format!(
        "oifname {bridges} meta skuid != 0 drop\n\
         oifname {bridges} ct state established,related accept\n\
         oifname {bridges} drop\n"
    ));
    [("input", input), ("forward", forward), ("output", output)]
}

/// The commands that replace the table in one transaction, whether or not it existed.
pub(super) fn ruleset(names: &Names, users: &AllowedUsers) -> String {
    let table = names.table();
    let mut text = format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    for (hook, rules) in rules(names, users) {
        let head = format!("type filter hook {hook} priority filter - 10; policy accept;");
        text.push_str(&format!("chain {hook} {{\n{head}\n{rules}}}\n"));
    }
    text.push_str("}\n");
    text
}

/// Whether the list has every rule, in order, and no other rule in between. nft lists rules as they were
/// written, if in its own format.
pub(super) fn is_complete(names: &Names, users: &AllowedUsers, listed: &str) -> bool {
    let mut lines = listed.lines().map(str::trim);
    rules(names, users).iter().all(|(hook, rules)| {
        let hooked = format!("type filter hook {hook} ");
        lines.any(|line| line.starts_with(&hooked))
            && rules
                .lines()
                .all(|rule| lines.next().is_some_and(|line| line == rule || is_same_rule(line, rule)))
    })
}

/// nft may list the states of a set in another order.
fn is_same_rule(line: &str, rule: &str) -> bool {
    line.replace("related,established", "established,related") == rule
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "table inet memgate_abc234 {
\tchain input {
\t\ttype filter hook input priority filter - 10; policy accept;
\t\tiifname \"mgabc234-*\" ct state established,related accept
\t\tiifname \"mgabc234-*\" drop
\t}

\tchain forward {
\t\ttype filter hook forward priority filter - 10; policy accept;
\t\tiifname \"mgabc234-*\" drop
\t\toifname \"mgabc234-*\" drop
\t}

\tchain output {
\t\ttype filter hook output priority filter - 10; policy accept;
\t\toifname \"mgabc234-*\" meta skuid 0 accept
\t\toifname \"mgabc234-*\" meta skuid 999 accept
\t\toifname \"mgabc234-*\" meta skuid != 0 drop
\t\toifname \"mgabc234-*\" ct state established,related accept
\t\toifname \"mgabc234-*\" drop
\t}
}
";

    //
    #[test]
    fn every_missing_rule_is_noticed() {
        let names = Names::new("abc234").unwrap();
        let users = AllowedUsers::from([0, 999]);
        assert!(is_complete(&names, &users, LISTED));
        assert!(!is_complete(&Names::new("abc235").unwrap(), &users, LISTED));
        let rules = LISTED.lines().filter(|line| line.contains("ifname") || line.contains("hook"));
        for rule in rules {
            let damaged: String = LISTED.replacen(&format!("{rule}\n"), "", 1);
            assert!(!is_complete(&names, &users, &damaged), "without {rule}");
        }
        for before in ["\t\tiifname", "\t\toifname \"mgabc234-*\" meta skuid 0"] {
            let with_accept = LISTED.replacen(before, &format!("\t\taccept\n{before}"), 1);
            assert!(!is_complete(&names, &users, &with_accept), "with a rule before {before}");
        }
    }

    //
    #[test]
    fn exactly_the_allowed_users_may_send() {
        let names = Names::new("abc234").unwrap();
        for users in
            [AllowedUsers::from([0]), AllowedUsers::from([0, 998]), AllowedUsers::from([0, 998, 999])]
        {
            assert!(!is_complete(&names, &users, LISTED), "{users:?}");
        }
    }
}
