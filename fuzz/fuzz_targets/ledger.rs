//! Lines of the ledger.
#![no_main]

use libfuzzer_sys::fuzz_target;
use domain::hostile;

fuzz_target!(|data: &[u8]| hostile::ledger_line(&String::from_utf8_lossy(data)));
