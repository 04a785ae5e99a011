//! What processors the host has.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::sync::LazyLock;

use node_wire::Processor;

/// Read once: it does not change while the machine runs.
static HERE: LazyLock<Processor> = LazyLock::new(|| {
    let lines = File::open("/proc/cpuinfo").ok().map(BufReader::new);
    first_of(lines.into_iter().flat_map(BufReader::lines).map_while(Result::ok))
});

pub(crate) fn processor() -> Processor {
    HERE.clone()
}

/// The first processor of `/proc/cpuinfo` (proc(5)), which ends with an empty line. What the
/// kernel does not say there stays empty; the names of the fields are those of x86.
fn first_of(lines: impl Iterator<Item = String>) -> Processor {
    let mut first =
        Processor { architecture: std::env::consts::ARCH.to_owned(), ..Processor::default() };
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let field = match name.trim() {
            "cpu family" => &mut first.family,
            "model" => &mut first.model,
            "model name" => &mut first.model_name,
            _ => continue,
        };
        value.trim().clone_into(field);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::first_of;

    #[test]
    fn the_first_processor_is_told_and_an_unknown_layout_is_empty() {
        let text = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Some: CPU\n\
                    \nprocessor\t: 1\nmodel\t\t: 86\n";
        let told = first_of(text.lines().map(str::to_owned));
        assert_eq!((told.family.as_str(), told.model.as_str()), ("6", "85"));
        assert_eq!(told.model_name, "Some: CPU");
        assert_eq!(told.architecture, std::env::consts::ARCH);
        let arm = first_of(["BogoMIPS : 50".to_owned(), "Features : fp".to_owned()].into_iter());
        assert_eq!((arm.family.as_str(), arm.model_name.as_str()), ("", ""));
    }
}
