//! On directories with files of the kernel's names. Whether the kernel does as it is asked is seen
//! in the tests of the whole program.

use std::path::Path;

use super::*;

struct Machine {
    dir: tempfile::TempDir,
    freezer: Arc<Freezer>,
}

impl Machine {
    fn new(patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let freezer = Freezer { patience, ..Freezer::new(Some(dir.path().to_owned())) };
        Self { dir, freezer: Arc::new(freezer) }
    }

    fn group(&self, name: &str, asked: bool, frozen: bool) {
        let group = self.path(name);
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("cgroup.freeze"), if asked { "1\n" } else { "0\n" }).unwrap();
        let events = format!("populated 1\nfrozen {}\n", u8::from(frozen));
        std::fs::write(group.join("cgroup.events"), events).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn is_asked(&self, name: &str) -> bool {
        group::is_asked(&self.path(name))
    }
}

fn counts(sweep: &Sweep, settled: &Settled) -> [usize; 7] {
    let Settled { frozen, not_frozen, unobservable, .. } = *settled;
    let asked = sweep.asked.len();
    [sweep.visited, sweep.pre_frozen, asked, sweep.failed, frozen, not_frozen, unobservable]
}

#[tokio::test]
async fn each_group_is_counted_for_what_became_of_it() {
    let machine = Machine::new(PATIENCE);
    machine.group(USER, false, true);
    machine.group(TERMINALS, true, true);
    machine.group("slow", false, false);
    machine.group("mute", false, false);
    std::fs::remove_file(machine.path("mute/cgroup.events")).unwrap();
    std::fs::create_dir(machine.path("deaf")).unwrap();
    let sweep = machine.freezer.freeze(Mode::Hierarchy, 512);
    let settled = machine.freezer.settle(&sweep, Duration::from_millis(1)).await;
    assert_eq!(counts(&sweep, &settled), [5, 1, 3, 1, 1, 1, 1]);
}

#[tokio::test]
async fn what_was_frozen_by_others_stays_frozen_however_often_is_asked() {
    let machine = Machine::new(PATIENCE);
    machine.group(USER, false, true);
    machine.group(TERMINALS, true, true);
    for _ in 0..2 {
        let sweep = machine.freezer.freeze(Mode::Legacy, 512);
        assert_eq!((sweep.asked.len(), sweep.pre_frozen), (1, 1));
    }
    assert!(machine.is_asked(USER) && !machine.freezer.is_idle());
    for _ in 0..2 {
        machine.freezer.thaw().unwrap();
        assert!(!machine.is_asked(USER) && machine.is_asked(TERMINALS));
        assert!(machine.freezer.is_idle());
    }
}

#[tokio::test]
async fn a_group_that_does_not_thaw_is_told_and_tried_again_and_one_that_is_gone_is_not() {
    let machine = Machine::new(PATIENCE);
    machine.group(USER, false, true);
    machine.group(TERMINALS, false, true);
    machine.freezer.freeze(Mode::Legacy, 512);
    std::fs::remove_dir_all(machine.path(USER)).unwrap();
    let file = machine.path(TERMINALS).join("cgroup.freeze");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let error = machine.freezer.thaw().unwrap_err();
    assert_eq!(error.group, machine.path(TERMINALS));
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, "1\n").unwrap();
    machine.freezer.thaw().unwrap();
    assert!(!machine.is_asked(TERMINALS) && machine.freezer.is_idle());
}

#[tokio::test]
async fn nobody_is_waited_for_once_somebody_has_thawed() {
    let machine = Machine::new(PATIENCE);
    machine.group(USER, false, false);
    let sweep = machine.freezer.freeze(Mode::Legacy, 512);
    machine.freezer.thaw().unwrap();
    let settled = machine.freezer.settle(&sweep, PATIENCE).await;
    assert_eq!((settled.frozen, settled.not_frozen), (0, 1));
}

#[tokio::test]
async fn what_nobody_thaws_goes_on_by_itself() {
    let machine = Machine::new(Duration::from_millis(1));
    machine.group(USER, false, true);
    machine.freezer.freeze(Mode::Legacy, 512);
    while machine.is_asked(USER) || !machine.freezer.is_idle() {
        tokio::task::yield_now().await;
    }
    assert!(machine.freezer.state.lock().watchdog.is_none());
}

#[tokio::test(start_paused = true)]
async fn each_freeze_has_its_whole_time() {
    let machine = Machine::new(PATIENCE);
    machine.group(USER, false, true);
    machine.freezer.freeze(Mode::Legacy, 512);
    tokio::time::sleep(PATIENCE / 2).await;
    machine.freezer.freeze(Mode::Legacy, 512);
    tokio::time::sleep(PATIENCE * 3 / 4).await;
    assert!(machine.is_asked(USER));
}

#[tokio::test]
async fn only_a_freeze_of_the_whole_hierarchy_is_audited_and_only_until_it_ends() {
    let machine = Machine::new(PATIENCE);
    machine.group(USER, false, true);
    machine.freezer.freeze(Mode::Legacy, 512);
    assert_eq!(machine.freezer.audit(), None);
    machine.freezer.freeze(Mode::Hierarchy, 512);
    machine.freezer.freeze(Mode::Legacy, 512);
    machine.group("new", false, false);
    let audit = serde_json::to_value(machine.freezer.audit().unwrap()).unwrap();
    let expected = serde_json::json!({
        "visited": 2, "frozen": 1, "escaped": 0, "violations": 1, "truncated": false
    });
    assert_eq!(audit, expected);
    machine.freezer.thaw().unwrap();
    assert_eq!(machine.freezer.audit(), None);
}

#[tokio::test]
async fn what_an_agent_before_left_frozen_goes_on() {
    let machine = Machine::new(PATIENCE);
    machine.group(USER, true, true);
    machine.group("other", true, true);
    machine.freezer.thaw_left_behind();
    assert!(!machine.is_asked(USER) && machine.is_asked("other"));
}

#[tokio::test]
async fn without_groups_nothing_is_visited_and_nothing_fails() {
    let freezer = Arc::new(Freezer::new(None));
    let sweep = freezer.freeze(Mode::Hierarchy, 512);
    let settled = freezer.settle(&sweep, PATIENCE).await;
    assert_eq!(counts(&sweep, &settled), [0; 7]);
    assert!(freezer.is_idle() && freezer.audit().is_none());
    freezer.thaw().unwrap();
    assert!(!Path::new("/user/cgroup.freeze").exists());
}
