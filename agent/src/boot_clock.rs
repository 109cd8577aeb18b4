//! Reads `CLOCK_BOOTTIME`, the only clock that decisions see (docs/ha.md section 3).

use proto::clock::BootTime;
use rustix::time::{ClockId, clock_gettime};

/// This node's boot time, now. It goes on while the node is suspended, and nobody can set it.
pub(crate) fn now() -> BootTime {
    let time = clock_gettime(ClockId::Boottime);
    let micros = time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000;
    BootTime(micros)
}
