//! A shell on a terminal.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::kit::{Client, Service, data_dir, terminal, turn};

use super::complaint;

/// A terminal and the shell on it.
struct Session {
    screen: File,
    keyboard: File,
    child: Child,
    /// What was shown and not waited for yet.
    shown: String,
    /// What the terminal was like.
    before: String,
}

impl Session {
    fn open(service: &Client, id: &str, options: &[&str]) -> Self {
        let (screen, keyboard) = terminal();
        size(&screen, 100, 40);
        let before = state(&keyboard);
        let child = service
            .about_sandboxes(&[&["shell", id], options].concat())
            .stdin(keyboard.try_clone().unwrap())
            .stdout(keyboard.try_clone().unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { screen, keyboard, child, shown: String::new(), before }
    }

    fn types(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads up to `text` and over it.
    fn shows(&mut self, text: &str) {
        let mut piece = [0; 4096];
        loop {
            if let Some((_, rest)) = self.shown.split_once(text) {
                self.shown = rest.to_owned();
                return;
            }
            let length = self.screen.read(&mut piece).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    }

    /// Types a command where the shell waits for one, and reads up to `text`. What is looked for
    /// must not be what is typed: that is shown, too.
    fn runs(&mut self, command: &str, text: &str) {
        self.types(&format!("{command}\r"));
        self.shows(text);
    }

    /// Its exit code; the terminal is as it was.
    fn ends(mut self) -> (i32, String) {
        let complaint = complaint(&mut self.child);
        let code = self.child.wait().unwrap().code().unwrap();
        assert_eq!(state(&self.keyboard), self.before, "{complaint}");
        (code, complaint)
    }
}

fn state(terminal: &File) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

fn size(screen: &File, cols: u16, rows: u16) {
    let size = Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(screen, size).unwrap();
}

#[test]
fn a_shell_has_the_terminal_with_its_size_and_its_keys_and_leaves_it_as_it_was() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let mut shell = Session::open(&service, &id, &["--env", "TERM=vt100", "--cwd", "/etc"]);
    // A shell that has just got its prompt ready may forget what was typed before.
    shell.shows("$ ");
    shell.runs("PS1='rea''dy> '", "ready> ");
    shell.runs("echo $((6*7))-$TERM-$PWD-", "42-vt100-/etc-");
    assert_ne!(state(&shell.keyboard), shell.before, "every key is the shell's");
    shell.shows("ready> ");
    shell.runs("busybox stty size", "40 100");
    shell.shows("ready> ");
    size(&shell.screen, 120, 50);
    kill_process(Pid::from_child(&shell.child), Signal::WINCH).unwrap();
    let looks = "until [ \"$(busybox stty size)\" = '50 120' ]; do :; done; echo re-$((1+1))-sized";
    shell.runs(looks, "re-2-sized");
    shell.shows("ready> ");
    // The key ends what runs, and not the shell. It says itself that it runs: a shell that has not
    // handed the terminal over yet would take the key for its own, and wait.
    shell.runs("sh -c 'echo wait-$((1+2)); exec sleep 1000'", "wait-3");
    shell.types("\u{3}");
    shell.shows("ready> ");
    shell.runs("echo and-$((2+2))", "and-4");
    shell.shows("ready> ");
    shell.types("exit 9\r");
    shell.shows("exit");
    assert_eq!(shell.ends(), (9, String::new()));
    service.kill(&id);
    service.finish();
}

/// Whether this process ignores a hang-up, signal 1: the last bit of the mask.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
}

#[test]
fn the_terminal_is_as_it_was_whatever_ends_the_shell() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let open = || {
        let mut shell = Session::open(&service, &id, &[]);
        shell.shows("$ ");
        shell.types("echo $$ >> /home/user/pids; echo on-$((1+1))\r");
        shell.shows("on-2");
        shell
    };
    let mut signals = vec![Signal::TERM, Signal::INT];
    // Under `nohup` a hang-up is nothing, for tests and for what they start.
    if !ignores_hangup() {
        signals.push(Signal::HUP);
    }
    for &signal in &signals {
        let shell = open();
        kill_process(Pid::from_child(&shell.child), signal).unwrap();
        assert_eq!(shell.ends(), (129, String::new()));
    }
    // None of those runs on.
    let gone = "for pid in $(cat pids); do while kill -0 $pid 2>/dev/null; do sleep 0.01; done; \
                echo gone; done";
    assert_eq!(super::script(&service, &id, &[], gone), "gone\n".repeat(signals.len()));

    let shell = open();
    service.kill(&id);
    let (code, complaint) = shell.ends();
    assert_eq!(code, 125);
    assert!(complaint.contains(&format!("sandbox {id} has ended")), "{complaint}");

    let shell = Session::open(&service, &id, &[]);
    let (code, complaint) = shell.ends();
    assert!(code == 125 && complaint.contains("no node has"), "{complaint}");
    // No terminal.
    let (code, _, complaint) = service.sandbox(&["shell", &id]);
    assert!(code == 125 && complaint.contains("a shell needs a terminal"), "{complaint}");
    service.finish();
}
