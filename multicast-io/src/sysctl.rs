//! Reads the kernel settings that errors and warnings name.

/// Present value of `name` (dots), for example `net.core.rmem_max`; `None` where it cannot be read.
pub(crate) fn value(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// ` (raise sysctl NAME, now VALUE)`, for the end of an error.
pub(crate) fn hint(names: &[&str]) -> String {
    let known: Vec<String> = names
        .iter()
        .map(|name| format!("sysctl {name}, now {}", value(name).as_deref().unwrap_or("unreadable")))
        .collect();
    format!(" (raise {})", known.join(" or "))
}
