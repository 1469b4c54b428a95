//! docs/runbook.md has a section for each alert, which its annotation names, and the commands in it exist.

use std::collections::BTreeSet;

use super::{RULES, alert_names};
use crate::documents::read;
use crate::harness::Installation;

const RUNBOOK: &str = "docs/runbook.md";

#[test]
fn each_alert_has_a_section_that_says_what_to_do() {
    let (runbook, rules, names) = (read(RUNBOOK), read(RULES), alert_names());
    assert!(names.len() > 20, "{names:?}");
    let sections: Vec<&str> = runbook.split("\n### ").skip(1).collect();
    let titles: BTreeSet<String> =
        sections.iter().map(|section| section.lines().next().unwrap().to_owned()).collect();
    assert_eq!(titles, names);
    for section in sections {
        for part in ["**Means:**", "**Look", "o:**"] {
            assert!(section.contains(part), "{part} is missing: {section}");
        }
    }
    for name in names {
        let (_, rule) = rules.split_once(&format!("- alert: {name}\n")).unwrap();
        let rule = rule.split("- alert: ").next().unwrap();
        let link = format!("runbook_url: docs/runbook.md#{}\n", name.to_lowercase());
        assert!(rule.contains(&link) && rule.contains("summary: \""), "{rule}");
    }
}

#[test]
fn commands_of_the_runbook_exist() {
    let installation = Installation::with_sqlite();
    let mut tried = 0;
    for command in read(RUNBOOK).split(['`', '\n']).filter_map(|text| text.trim().strip_prefix("memgate ")) {
        let command = command.split('#').next().unwrap();
        let words: Vec<&str> = command.split_whitespace().collect();
        let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let names: Vec<&str> =
            words.iter().take(2).take_while(is_name).filter(|word| !word.starts_with('-')).copied().collect();
        let help = installation.memgate(&names).arg("--help").output().unwrap();
        assert!(help.status.success(), "memgate {command}");
        let help = String::from_utf8(help.stdout).unwrap();
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{option} ")), "memgate {command}: no {option}");
        }
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
}
