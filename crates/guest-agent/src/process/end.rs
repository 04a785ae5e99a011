//! How the end of a process is told to clients.

use guest_wire::proto::process::process_event::EndEvent;

use crate::reaper::Exit;

/// What every subscriber hears last.
pub(super) fn end_event(exit: Exit) -> EndEvent {
    match exit {
        Exit::Code(code) => {
            let status = format!("exit status {code}");
            let error = (code != 0).then(|| status.clone());
            EndEvent { exit_code: code, exited: true, status, error, ..EndEvent::default() }
        }
        Exit::Signal { number, core_dumped } => {
            let suffix = if core_dumped { " (core dumped)" } else { "" };
            let status = format!("signal: {}{suffix}", signal_name(number));
            let error = Some(status.clone());
            EndEvent { exit_code: -1, exited: false, status, error, ..EndEvent::default() }
        }
    }
}

/// The words clients of E2B's agent know, which are those of Go's runtime.
fn signal_name(number: i32) -> String {
    let name = match number {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGXCPU => "CPU time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGVTALRM => "virtual timer expired",
        libc::SIGPROF => "profiling timer expired",
        libc::SIGSYS => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(exit: Exit) -> (i32, bool, String, Option<String>) {
        let end = end_event(exit);
        (end.exit_code, end.exited, end.status, end.error)
    }

    #[test]
    fn success_has_no_error() {
        assert_eq!(told(Exit::Code(0)), (0, true, "exit status 0".into(), None));
    }

    #[test]
    fn failure_repeats_its_status_as_the_error() {
        let status = String::from("exit status 3");
        assert_eq!(told(Exit::Code(3)), (3, true, status.clone(), Some(status)));
    }

    #[test]
    fn a_signal_is_told_as_minus_one_and_by_name() {
        for (number, core_dumped, status) in [
            (9, false, "signal: killed"),
            (15, false, "signal: terminated"),
            (11, true, "signal: segmentation fault (core dumped)"),
            (40, false, "signal: signal 40"),
        ] {
            let expected = (-1, false, status.to_owned(), Some(status.to_owned()));
            assert_eq!(told(Exit::Signal { number, core_dumped }), expected);
        }
    }
}
