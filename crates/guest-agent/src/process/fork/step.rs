//! The steps between fork and exec, by name and as a child reports them.

/// What the child does before its program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::process) enum Step {
    Cgroup,
    Session,
    Stdio,
    Terminal,
    Groups,
    Group,
    User,
    Workdir,
    Exec,
}

impl Step {
    pub(super) const ALL: [Self; 9] = [
        Self::Session,
        Self::Stdio,
        Self::Terminal,
        Self::Groups,
        Self::Group,
        Self::User,
        Self::Workdir,
        Self::Exec,
        Self::Cgroup,
    ];

    /// Position in [`Step::ALL`], as one byte on the report pipe.
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Session => 0,
            Self::Stdio => 1,
            Self::Terminal => 2,
            Self::Groups => 3,
            Self::Group => 4,
            Self::User => 5,
            Self::Workdir => 6,
            Self::Exec => 7,
            Self::Cgroup => 8,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "enter the control group",
            Self::Session => "start a session",
            Self::Stdio => "set up standard input and output",
            Self::Terminal => "take control of the terminal",
            Self::Groups => "set the groups",
            Self::Group => "set the primary group",
            Self::User => "set the user",
            Self::Workdir => "enter the working directory",
            Self::Exec => "execute the program",
        })
    }
}
