//! CRI numbers signals by the alphabet, Linux by history. This is the table between them.

use crate::cri::v1::Signal;

/// The first real-time signal as programs see it: the C library keeps 32 and 33 for itself (signal(7)).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The Linux number of a signal; `None` where the runtime is to choose.
pub fn number(signal: Signal) -> Option<i32> {
    use Signal as S;
    Some(match signal {
        S::RuntimeDefault => return None,
        S::Sigabrt | S::Sigiot => libc::SIGABRT,
        S::Sigalrm => libc::SIGALRM,
        S::Sigbus => libc::SIGBUS,
        S::Sigchld | S::Sigcld => libc::SIGCHLD,
        S::Sigcont => libc::SIGCONT,
        S::Sigfpe => libc::SIGFPE,
        S::Sighup => libc::SIGHUP,
        S::Sigill => libc::SIGILL,
        S::Sigint => libc::SIGINT,
        S::Sigio | S::Sigpoll => libc::SIGIO,
        S::Sigkill => libc::SIGKILL,
        S::Sigpipe => libc::SIGPIPE,
        S::Sigprof => libc::SIGPROF,
        S::Sigpwr => libc::SIGPWR,
        S::Sigquit => libc::SIGQUIT,
        S::Sigsegv => libc::SIGSEGV,
        S::Sigstkflt => libc::SIGSTKFLT,
        S::Sigstop => libc::SIGSTOP,
        S::Sigsys => libc::SIGSYS,
        S::Sigterm => libc::SIGTERM,
        S::Sigtrap => libc::SIGTRAP,
        S::Sigtstp => libc::SIGTSTP,
        S::Sigttin => libc::SIGTTIN,
        S::Sigttou => libc::SIGTTOU,
        S::Sigurg => libc::SIGURG,
        S::Sigusr1 => libc::SIGUSR1,
        S::Sigusr2 => libc::SIGUSR2,
        S::Sigvtalrm => libc::SIGVTALRM,
        S::Sigwinch => libc::SIGWINCH,
        S::Sigxcpu => libc::SIGXCPU,
        S::Sigxfsz => libc::SIGXFSZ,
        // From SIGRTMIN to SIGRTMAX both count up one by one.
        rt => RTMIN + (rt as i32 - S::Sigrtmin as i32),
    })
}

/// CRI's value of a Linux signal number; the default where there is none (32 and 33, or no signal at all).
pub fn value(number: i32) -> Signal {
    use Signal as S;
    match number {
        libc::SIGABRT => S::Sigabrt,
        libc::SIGALRM => S::Sigalrm,
        libc::SIGBUS => S::Sigbus,
        libc::SIGCHLD => S::Sigchld,
        libc::SIGCONT => S::Sigcont,
        libc::SIGFPE => S::Sigfpe,
        libc::SIGHUP => S::Sighup,
        libc::SIGILL => S::Sigill,
        libc::SIGINT => S::Sigint,
        libc::SIGIO => S::Sigio,
        libc::SIGKILL => S::Sigkill,
        libc::SIGPIPE => S::Sigpipe,
        libc::SIGPROF => S::Sigprof,
        libc::SIGPWR => S::Sigpwr,
        libc::SIGQUIT => S::Sigquit,
        libc::SIGSEGV => S::Sigsegv,
        libc::SIGSTKFLT => S::Sigstkflt,
        libc::SIGSTOP => S::Sigstop,
        libc::SIGSYS => S::Sigsys,
        libc::SIGTERM => S::Sigterm,
        libc::SIGTRAP => S::Sigtrap,
        libc::SIGTSTP => S::Sigtstp,
        libc::SIGTTIN => S::Sigttin,
        libc::SIGTTOU => S::Sigttou,
        libc::SIGURG => S::Sigurg,
        libc::SIGUSR1 => S::Sigusr1,
        libc::SIGUSR2 => S::Sigusr2,
        libc::SIGVTALRM => S::Sigvtalrm,
        libc::SIGWINCH => S::Sigwinch,
        libc::SIGXCPU => S::Sigxcpu,
        libc::SIGXFSZ => S::Sigxfsz,
        RTMIN..=RTMAX => S::try_from(S::Sigrtmin as i32 + (number - RTMIN)).unwrap_or(S::RuntimeDefault),
        _ => S::RuntimeDefault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_number_and_comes_back() {
        for raw in 0..=65 {
            let signal = Signal::try_from(raw).unwrap();
            let Some(linux) = number(signal) else {
                assert_eq!(signal, Signal::RuntimeDefault);
                continue;
            };
            assert!((1..=64).contains(&linux), "{signal:?}");
            // Aliases come back as the common name, which has the same number.
            assert_eq!(number(value(linux)), Some(linux), "{signal:?}");
        }
        assert!(Signal::try_from(66).is_err(), "a signal was added to the contract");
    }

    #[test]
    fn the_two_numberings_differ() {
        assert_eq!((Signal::Sigterm as i32, number(Signal::Sigterm)), (23, Some(15)));
        assert_eq!((Signal::Sigkill as i32, number(Signal::Sigkill)), (13, Some(9)));
        assert_eq!(number(Signal::Sigrtmin), Some(34));
        assert_eq!(number(Signal::Sigrtminplus15), Some(49));
        assert_eq!(number(Signal::Sigrtmaxminus14), Some(50));
        assert_eq!(number(Signal::Sigrtmax), Some(64));
        assert_eq!(value(33), Signal::RuntimeDefault);
        assert_eq!(value(0), Signal::RuntimeDefault);
    }
}
