//! Weights that neither fit into `.rodata` nor may be held in memory.
//!
//! In a process of its own, because it measures the process's peak memory.

#![cfg(target_os = "linux")]

mod sample;

use std::io::Write;
use std::time::Instant;

use object::{Object, ObjectSection, SectionFlags};
use onnxc_backend::object::emit;
use onnxc_backend::object::weights::Weights;
use onnxc_backend::target::Target;

const CHUNK: usize = 20 << 20;
const CHUNKS: usize = 15;

/// Peak resident memory of this process in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn three_hundred_megabytes_go_through_a_small_memory() {
    let target = Target::parse("x86_64").unwrap();
    let mut spec = sample::spec(&target);
    let mut weights = Weights::new("net_weights");
    for index in 0..CHUNKS {
        weights.push(CHUNK as u64, move |out: &mut dyn Write| {
            let block = [index as u8 + 1; 1 << 16];
            (0..CHUNK / block.len()).try_for_each(|_| out.write_all(&block))
        });
    }
    spec.weights = Some(weights);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.o");
    let before = peak_kib();
    let started = Instant::now();
    let emitted = emit::object_file(&spec, &path).unwrap();
    assert_eq!(emitted.weight_bytes, (CHUNK * CHUNKS) as u64);
    let grown = peak_kib() - before;
    assert!(grown < 100 << 10, "writing took {grown} KiB and {:?}", started.elapsed());

    let file = std::fs::File::open(&path).unwrap();
    // SAFETY: nothing else knows the file.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    let parsed = object::File::parse(&bytes[..]).unwrap();
    let section = parsed.section_by_name(".lrodata").unwrap();
    let SectionFlags::Elf { sh_flags } = section.flags() else { panic!("an ELF file") };
    assert_eq!((sh_flags, section.size()), (0x1000_0002, emitted.weight_bytes));
    let data = section.data().unwrap();
    for index in 0..CHUNKS {
        let (first, last) = (data[index * CHUNK], data[(index + 1) * CHUNK - 1]);
        assert_eq!((first, last), (index as u8 + 1, index as u8 + 1));
    }

    #[cfg(target_arch = "x86_64")]
    {
        use onnxc_backend::loader::{LoadedModel, ObjectImage};
        let model = LoadedModel::load(ObjectImage::open(&path).unwrap(), &[]).unwrap();
        // SAFETY: the sample's function has this signature, and the model outlives the call.
        unsafe {
            let copy: extern "C" fn(*mut u8, usize) = std::mem::transmute(model.symbol("net_copy").unwrap());
            let mut copied = [0u8; 3];
            copy(copied.as_mut_ptr(), copied.len());
            assert_eq!(copied, [1, 1, 1]);
        }
        assert!(model.region_bytes() < 1 << 20 && model.in_place_bytes() == emitted.weight_bytes);
        assert!(peak_kib() - before < 100 << 10, "loading maps the weights");
    }
}
