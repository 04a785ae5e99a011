use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::layers::Source;
use super::{Choice, Config, Driver, Faults, Inputs, Loaded, Patience, Unknown};

struct Case {
    _dir: tempfile::TempDir,
    inputs: Inputs,
}

/// A file with `text`, and nothing from anywhere else.
fn file(text: &str) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    Case { inputs: Inputs { file: Some(path), ..Inputs::default() }, _dir: dir }
}

impl Case {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.inputs.env.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, name: &'static str, value: &str) -> Self {
        self.inputs.flags.push((name, value.to_owned()));
        self
    }

    fn load(&self) -> Result<Loaded, Faults> {
        Config::load(&self.inputs)
    }

    fn path(&self) -> PathBuf {
        self.inputs.file.clone().unwrap()
    }
}

fn source(loaded: &Loaded, name: &str) -> Source {
    loaded.values.iter().find(|(key, _)| key.name == name).unwrap().1.source.clone()
}

#[test]
fn the_defaults_are_legal() {
    let loaded = file("").load().unwrap();
    assert_eq!(loaded.config.listen.to_string(), "127.0.0.1:3000");
    assert_eq!(loaded.config.driver, Choice::Auto);
    assert!(loaded.values.iter().all(|(_, said)| said.source == Source::Default));
    assert_eq!(loaded.values.len(), super::KEYS.len());
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let text = "max_sandboxes = 40\nmax_starting = 4\ndriver = \"container\"\n\
                [timeouts]\nstart = \"5s\"\n[network]\ndns = [\"9.9.9.9\", \"1.1.1.1\"]\n";
    let case = file(text)
        .env("COFFERDAM_MAX_SANDBOXES", "50")
        .env("COFFERDAM_MAX_STARTING", "5")
        .env("COFFERDAM_TIMEOUTS_START", "6s")
        .flag("max_sandboxes", "60");
    let loaded = case.load().unwrap();
    let config = &loaded.config;
    assert_eq!((config.max_sandboxes, config.max_starting), (60, 5));
    assert_eq!(config.timeout_start, Duration::from_secs(6));
    assert_eq!(config.driver, Choice::Given(Driver::Container));
    assert!(matches!(&config.network_dns, Choice::Given(dns) if dns.0.len() == 2));
    assert_eq!(source(&loaded, "max_sandboxes"), Source::Flag("--max-sandboxes".into()));
    assert_eq!(source(&loaded, "max_starting"), Source::Env("COFFERDAM_MAX_STARTING".into()));
    assert_eq!(source(&loaded, "driver"), Source::File(case.path()));
    assert_eq!(source(&loaded, "warm_slots"), Source::Default);
}

#[test]
fn all_faults_are_told_at_once_with_key_source_and_what_is_allowed() {
    let faults = file("driver = \"qemu\"\nlimits = 3\n[team]\nmax_lifetime = \"1y\"\n")
        .env("COFFERDAM_LISTEN", "localhost")
        .flag("data_dir", "relative/path")
        .flag("log", "node=loud=very")
        .load()
        .unwrap_err();
    assert_eq!(faults.0.len(), 6, "{faults}");
    let text = faults.to_string();
    for part in [
        "driver: \"qemu\" (from ",
        "limits: \"3\"",
        "team.max_lifetime: \"1y\"",
        "listen: \"localhost\" (from COFFERDAM_LISTEN) is not allowed; give an address",
        "data_dir: \"relative/path\" (from --data-dir) is not allowed; give an absolute path",
        "log: \"node=loud=very\"",
    ] {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
}

#[test]
fn a_file_with_bad_syntax_does_not_hide_the_other_faults() {
    let case = file("listen = \n").env("COFFERDAM_DRIVER", "qemu");
    let text = case.load().unwrap_err().to_string();
    assert!(text.contains("line 1") && text.contains("driver: \"qemu\""), "{text}");
}

#[test]
fn a_value_a_stronger_layer_replaces_is_not_a_fault() {
    let loaded = file("listen = \"nonsense\"\n").flag("listen", "127.0.0.1:0").load().unwrap();
    assert_eq!(loaded.config.listen.port(), 0);
}

#[test]
fn values_that_do_not_fit_together_are_a_fault() {
    let slots = file("max_sandboxes = 2048\n").load().unwrap_err().to_string();
    assert!(slots.contains("together they are 2064; give at most 2048"), "{slots}");
    let text = file("max_sandboxes = 2\n").load().unwrap_err().to_string();
    assert!(text.contains("max_starting: 32 is more than max_sandboxes (2)"), "{text}");
}

#[test]
fn the_patience_of_e2bs_node_is_understood_and_weaker_than_our_own() {
    let foreign = |value: &str| file("").env("SHUTDOWN_DRAIN_TIMEOUT", value);
    let patience = |case: Case| case.load().unwrap().config.shutdown_drain_timeout;
    assert_eq!(patience(file("")), Patience::Auto);
    for zero in ["0", "0s", "0h0m"] {
        assert_eq!(patience(foreign(zero)), Patience::Forever, "{zero}");
    }
    let long = Patience::Limited(Duration::from_secs(5400));
    assert_eq!(patience(foreign("1h30m")), long);
    let own = "COFFERDAM_SHUTDOWN_DRAIN_TIMEOUT";
    assert_eq!(patience(foreign("0").env(own, "0s")), Patience::Limited(Duration::ZERO));
    let faults = foreign("soon").load().unwrap_err().to_string();
    assert!(faults.contains("\"soon\" (from SHUTDOWN_DRAIN_TIMEOUT) is not allowed"), "{faults}");
}

#[test]
fn a_deadline_that_no_stop_can_keep_is_a_fault() {
    let text = file("shutdown_kill_deadline = \"90s\"\n").load().unwrap_err().to_string();
    assert!(text.contains("a stop may take 120 s"), "{text}");
    let enough = file("shutdown_kill_deadline = \"120s\"\n").load().unwrap().config;
    assert_eq!(enough.shutdown_kill_deadline, Some(enough.stop_limit()));
}

#[test]
fn unknown_keys_are_named_and_do_no_harm() {
    let case = file("listne = 1\n[network]\nmtu = 1500\n[tls]\ncert = \"x\"\n")
        .env("COFFERDAM_LISTNE", "x")
        .env("COFFERDAM_ADMIN_TOKEN", "secret")
        .env("PATH", "/bin");
    let loaded = case.load().unwrap();
    let in_file = |name: &str| Unknown { name: name.into(), source: Source::File(case.path()) };
    let in_env =
        Unknown { name: "COFFERDAM_LISTNE".into(), source: Source::Env("COFFERDAM_LISTNE".into()) };
    let expected = [in_file("listne"), in_file("network.mtu"), in_file("tls"), in_env];
    assert_eq!(loaded.unknown, expected);
}

#[test]
fn a_named_file_that_is_not_there_is_a_fault() {
    let inputs = Inputs { file: Some("/nonexistent/c.toml".into()), ..Inputs::default() };
    let text = Config::load(&inputs).unwrap_err().to_string();
    assert!(text.contains("/nonexistent/c.toml: No such file"), "{text}");
}

#[test]
fn a_value_that_is_not_text_is_a_fault() {
    let mut case = file("");
    let bytes = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    case.inputs.env.push((OsString::from("COFFERDAM_LOG"), bytes));
    assert_eq!(case.load().unwrap_err().0.len(), 1);
}
