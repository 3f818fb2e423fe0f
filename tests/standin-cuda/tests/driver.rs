//! The driver's functions, called as a host program does.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

// They are exported by name only.
use onnxc_standin_cuda as _;

unsafe extern "C" {
    fn cuInit(flags: c_uint) -> c_int;
    fn cuModuleLoadDataEx(
        module: *mut *mut c_void,
        image: *const c_char,
        count: c_uint,
        options: *const c_int,
        values: *const *mut c_void,
    ) -> c_int;
    fn cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) -> c_int;
    fn cuFuncSetAttribute(function: *mut c_void, attribute: c_int, value: c_int) -> c_int;
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int;
    fn cuMemFree_v2(address: u64) -> c_int;
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) -> c_int;
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) -> c_int;
    fn cuStreamCreate(stream: *mut usize, flags: c_uint) -> c_int;
    fn cuStreamSynchronize(stream: usize) -> c_int;
    fn cuStreamBeginCapture_v2(stream: usize, mode: c_int) -> c_int;
    fn cuStreamEndCapture(stream: usize, graph: *mut *mut c_void) -> c_int;
    fn cuGraphInstantiateWithFlags(exec: *mut *mut c_void, graph: *mut c_void, flags: u64) -> c_int;
    fn cuGraphLaunch(exec: *mut c_void, stream: usize) -> c_int;
    fn cuGraphDestroy(graph: *mut c_void) -> c_int;
    fn cuGraphExecDestroy(exec: *mut c_void) -> c_int;
    fn cuLaunchKernel(
        function: *mut c_void,
        blocks_x: c_uint,
        blocks_y: c_uint,
        blocks_z: c_uint,
        threads_x: c_uint,
        threads_y: c_uint,
        threads_z: c_uint,
        shared: c_uint,
        stream: usize,
        params: *const *const u8,
        extra: *const *mut c_void,
    ) -> c_int;
    fn cuGetErrorString(code: c_int, text: *mut *const c_char) -> c_int;
    fn onnxcStandinCount(what: c_int) -> u64;
}

/// Adds 1 to each word.
const TEXT: &CStr = c".version 7.8
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry k(.param .u64 data)
{
.reg .b32 %r<4>;
.reg .b64 %rd<4>;
ld.param.u64 %rd0, [data];
mov.u32 %r0, %tid.x;
mul.wide.u32 %rd1, %r0, 4;
add.s64 %rd0, %rd0, %rd1;
ld.global.u32 %r1, [%rd0];
add.u32 %r1, %r1, 1;
st.global.u32 [%rd0], %r1;
ret;
}
";

/// One test, for the driver has one state for the process.
#[test]
fn work_runs_when_it_is_waited_for_and_graphs_replay() {
    // SAFETY: the functions get what the driver's get: live pointers, and sizes of what is behind them.
    unsafe {
        assert_eq!(cuInit(0), 0);
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!(cuModuleLoadDataEx(&mut module, TEXT.as_ptr(), 0, std::ptr::null(), std::ptr::null()), 0);
        assert_eq!(cuModuleGetFunction(&mut function, module, c"k".as_ptr()), 0);
        let (mut memory, mut stream) = (0, 0);
        assert_eq!(cuMemAlloc_v2(&mut memory, 16), 0);
        assert_eq!(cuStreamCreate(&mut stream, 0), 0);
        let pointer = &raw const memory;
        let launch = |threads, shared| {
            let params = [pointer.cast::<u8>()];
            cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, shared, stream, params.as_ptr(), std::ptr::null())
        };
        // The copy takes the words when it is given; nothing runs before somebody waits.
        let mut words = [1u32, 2, 3, 4];
        assert_eq!(cuMemcpyHtoDAsync_v2(memory, words.as_ptr().cast(), 16, stream), 0);
        words = [0; 4];
        assert_eq!(launch(4, 0), 0);
        assert_eq!(cuMemcpyDtoHAsync_v2(words.as_mut_ptr().cast(), memory, 16, stream), 0);
        assert_eq!((words, onnxcStandinCount(0), onnxcStandinCount(1)), ([0; 4], 0, 1));
        assert_eq!(cuStreamSynchronize(stream), 0);
        assert_eq!((words, onnxcStandinCount(0)), ([2, 3, 4, 5], 1));

        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!(cuStreamBeginCapture_v2(0, 2), 900, "the default stream does not record");
        assert_eq!(cuStreamBeginCapture_v2(stream, 2), 0);
        assert_eq!((launch(4, 0), launch(4, 0), cuStreamSynchronize(stream)), (0, 0, 900));
        assert_eq!(cuStreamEndCapture(stream, &mut graph), 0);
        assert_eq!((cuGraphInstantiateWithFlags(&mut exec, graph, 0), cuGraphDestroy(graph)), (0, 0));
        (0..3).for_each(|_| assert_eq!(cuGraphLaunch(exec, stream), 0));
        assert_eq!(cuMemcpyDtoHAsync_v2(words.as_mut_ptr().cast(), memory, 16, stream), 0);
        assert_eq!((cuStreamSynchronize(stream), words), (0, [8, 9, 10, 11]));
        assert_eq!([0, 1, 2].map(|n| onnxcStandinCount(n)), [7, 3, 3]);
        assert_eq!(cuGraphExecDestroy(exec), 0);

        // More shared memory than all have must be asked for, and there is an end to it.
        assert_eq!(launch(4, 64 << 10), 1);
        assert_eq!(cuFuncSetAttribute(function, 8, 100 << 10), 1);
        assert_eq!((cuFuncSetAttribute(function, 8, 64 << 10), launch(4, 64 << 10)), (0, 0));
        assert_eq!(cuStreamSynchronize(stream), 0);

        // An error appears where somebody waits, and stays.
        assert_eq!((launch(5, 0), cuStreamSynchronize(stream), cuStreamSynchronize(stream)), (0, 700, 700));
        let mut text = std::ptr::null();
        assert_eq!(cuGetErrorString(700, &mut text), 0);
        let text = CStr::from_ptr(text).to_string_lossy();
        assert!(text.contains("k, line 13") && text.contains("thread 4") && text.contains("out of bounds"), "{text}");
        assert_eq!(cuMemFree_v2(memory), 700);
    }
}
