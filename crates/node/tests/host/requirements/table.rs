//! The table of requirements names tests that are there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The file of a test that is told as `crate path::name` or `crate target path::name`, and its name.
fn place(told: &str) -> Option<(Vec<PathBuf>, &str)> {
    let words: Vec<&str> = told.split(' ').collect();
    let (path, name) = words.last()?.rsplit_once("::")?;
    let path = format!("{}.rs", path.replace("::", "/"));
    let crate_dir = repository().join("crates").join(words.first()?);
    let files = match words.len() {
        2 => vec![crate_dir.join("src").join(&path), crate_dir.join("tests").join(&path)],
        3 => vec![crate_dir.join("tests").join(words.get(1)?).join(&path)],
        _ => return None,
    };
    Some((files, name))
}

#[test]
fn every_requirement_has_a_row_and_every_test_that_it_names_is_there() {
    let text = fs::read_to_string(repository().join("LIMITS.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(number) = cells.get(1).and_then(|cell| cell.parse::<u32>().ok()) else { continue };
        let [_, _, _, state, shown_by, _] = cells[..] else { panic!("{line}") };
        assert!(rows.insert(number, state).is_none(), "R{number} is there twice");
        let tests: Vec<&str> =
            shown_by.split('`').skip(1).step_by(2).filter(|told| told.contains("::")).collect();
        match state {
            "shown" => assert!(!tests.is_empty(), "R{number} is shown by nothing"),
            "part" => {
                assert!(shown_by.contains("Missing: "), "R{number} does not say what is missing")
            }
            "waiting" | "n/a" => assert!(!shown_by.is_empty(), "R{number} says no reason"),
            other => panic!("R{number} is {other:?}"),
        }
        for told in tests {
            let (files, name) = place(told).unwrap_or_else(|| panic!("R{number}: {told}"));
            let found = files.iter().filter_map(|file| fs::read_to_string(file).ok());
            let function = format!("fn {name}(");
            assert!(found.into_iter().any(|file| file.contains(&function)), "R{number}: no {told}");
        }
    }
    let asked: Vec<u32> = (1..=132).collect();
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), asked);
}
