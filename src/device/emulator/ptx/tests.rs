//! The interpreter: what it computes, and that it finds planted errors.

use std::sync::Arc;

use super::super::super::gpu::{self, Argument, Kernel, Parameter};
use super::super::super::{Device, Machine, Program, Target, View};
use super::{Module, Schedule};
use crate::error::Result;

/// An entry `k` that reads x and writes y, with this body.
fn text(body: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n\n.visible .entry k(\n    .param .u64 x,\n    .param .u64 y\n)\n\
         .maxntid 64, 1, 1\n{{\n    .reg .pred %p<2>;\n    .reg .b32 %r<6>;\n    .reg .b64 %rd<8>;\n    .reg .f32 %f<6>;\n    \
         .reg .f64 %fd<4>;\n    .shared .align 8 .b8 sums[512];\n{HEAD}{body}\n    ret;\n}}\n"
    )
}

/// %rd0 and %rd1 are x and y, %rd2 and %rd3 the places of 4 bytes of this thread there; %r1 is where 8 bytes of it lie in
/// shared memory.
const HEAD: &str = "    ld.param.u64 %rd0, [x];
    ld.param.u64 %rd1, [y];
    mov.u32 %r0, %tid.x;
    cvt.u64.u32 %rd4, %r0;
    mul.lo.s64 %rd5, %rd4, 4;
    add.s64 %rd2, %rd0, %rd5;
    add.s64 %rd3, %rd1, %rd5;
    mov.u32 %r1, sums;
    shl.b32 %r2, %r0, 3;
    add.s32 %r1, %r1, %r2;
";

fn kernel(text: &str) -> Arc<Kernel> {
    let parameter = |name: &'static str, code| Parameter {
        name: name.into(),
        code,
        size: 4,
    };
    let parameters = vec![parameter("x", 'r'), parameter("y", 'w')];
    Kernel::of_text(&text.into(), "k", 64, parameters)
}

/// 64 numbers from 64, by this many blocks.
fn run(text: &str, blocks: usize, schedule: Schedule) -> Result<Vec<f32>> {
    let mut machine = Machine::emulator(schedule, None)?;
    let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let x = machine.alloc_with("x", &x)?;
    let y: View<f32> = machine.alloc_with("y", &[0.0; 64])?;
    let mut program = Program::new(Target {
        device: Device::Emulator,
        precision: None,
    });
    let arguments = vec![Argument::read(x), Argument::write(y)];
    gpu::launch(&mut program, &kernel(text), blocks, arguments);
    let program = machine.prepare(program)?;
    machine.run(program)?;
    machine.download(y)
}

#[test]
fn threads_compute_meet_and_exchange() {
    // Lanes below 40 take the square; all then take what the thread opposite has left.
    let body = "
    ld.global.f32 %f0, [%rd2+0];
    setp.ge.s32 %p0, %r0, 40;
    @%p0 bra L0;
    mul.rn.f32 %f0, %f0, %f0;
L0:
    cvt.f64.f32 %fd0, %f0;
    st.shared.f64 [%r1+0], %fd0;
    bar.sync 0;
    sub.s32 %r3, 504, %r2;
    ld.shared.f64 %fd1, [%r3+0];
    cvt.rn.f32.f64 %f1, %fd1;
    st.global.f32 [%rd3], %f1;";
    for schedule in Schedule::all() {
        let ours = run(&text(body), 1, schedule).unwrap();
        for (i, y) in ours.into_iter().enumerate() {
            let x = 63.0 - i as f32;
            assert_eq!(y, if x < 40.0 { x * x } else { x }, "{schedule:?}");
        }
    }
}

#[test]
fn planted_errors_are_found() {
    let finds = |body: &str, blocks, parts: &[&str]| {
        for schedule in Schedule::all() {
            let error = run(&text(body), blocks, schedule).expect_err(body);
            assert_eq!(error.kind.exit_code(), 1);
            for part in parts {
                let text = &error.message;
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        }
    };
    finds(
        "st.global.f32 [%rd3+4], 0f3F800000;",
        1,
        &[
            "kernel k, block 0, thread 63, line 27: invalid write 0 bytes past the end of y (256 bytes)",
        ],
    );
    finds(
        "ld.global.f32 %f0, [%rd2+8];",
        1,
        &["invalid read", "past the end of x"],
    );
    finds(
        "st.global.f32 [%rd2], 0f3F800000;",
        1,
        &["write of x, which is only read"],
    );
    finds(
        "ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%rd0+8];",
        1,
        &["misaligned read of 16 bytes"],
    );
    let half = "setp.ge.s32 %p0, %r0, 32;\n@%p0 bra L0;\nbar.sync 0;\nL0:";
    finds(
        half,
        1,
        &["not all threads of the block wait at the same barrier"],
    );
    let apart =
        "setp.ge.s32 %p0, %r0, 16;\n@%p0 bra L0;\nbar.sync 0;\nbra L1;\nL0:\nbar.sync 0;\nL1:";
    finds(apart, 1, &["not all threads"]);
    finds(
        "ld.shared.f64 %fd0, [%r1];",
        1,
        &["shared memory that nobody wrote"],
    );
    finds(
        "mov.f64 %fd0, 0d0000000000000000;\nst.shared.f64 [%r1+8], %fd0;",
        1,
        &["thread 63,", "byte 512 of 512"],
    );
    let no_barrier = "
    cvt.f64.f32 %fd0, 0f3F800000;
    st.shared.f64 [%r1], %fd0;
    sub.s32 %r3, 504, %r2;
    ld.shared.f64 %fd1, [%r3];";
    finds(no_barrier, 1, &["of shared memory"]);
    let two_write = "st.global.f32 [%rd1], 0f3F800000;";
    finds(two_write, 1, &["this write of y races with another thread"]);
    // Threads are alone, but blocks are not.
    finds(
        "st.global.f32 [%rd3], 0f3F800000;",
        2,
        &["this write of y races"],
    );
    // All read before one writes, without a barrier between.
    let late = "ld.global.f32 %f0, [%rd1];\nsetp.ge.s32 %p0, %r0, 1;\n@%p0 bra L0;\nst.global.f32 [%rd1], %f0;\nL0:";
    finds(late, 1, &["races"]);
    let endless = Schedule {
        timeout_ms: 50,
        ..Schedule::default()
    };
    let error = run(&text("L0:\nbra L0;"), 1, endless).unwrap_err();
    assert!(error.message.contains("still running after 50 ms"));
}

#[test]
fn barriers_order_what_threads_do() {
    let body = "
    ld.global.f32 %f0, [%rd1];
    bar.sync 0;
    setp.ge.s32 %p0, %r0, 1;
    @%p0 bra L0;
    st.global.f32 [%rd1], 0f40000000;
L0:
    bar.sync 0;
    ld.global.f32 %f1, [%rd1];
    setp.neu.f32 %p1, %f1, 0f40000000;
    @!%p1 bra L1;
    st.global.f32 [%rd1+4], %f1;
L1:";
    for schedule in Schedule::all() {
        assert_eq!(run(&text(body), 1, schedule).unwrap()[..2], [2.0, 0.0]);
    }
}

#[test]
fn text_outside_of_the_subset_is_refused() {
    let refuses = |text: &str, part: &str| {
        let wrong = Module::parse(text).err().expect(part);
        assert!(wrong.contains(part), "{wrong:?} lacks {part:?}");
    };
    let of_body = |body: &str, part: &str| refuses(&text(body), part);
    of_body(
        "    fma.rz.f32 %f0, %f1, %f2, %f3;",
        "line 27: an unknown instruction, in \"fma.rz",
    );
    of_body("mov.f32 %f0, %f1;", "%f1 is read before it is written");
    of_body("add.rn.f32 %f0, %fd0, %fd0;", "%fd0 is Double, not Single");
    of_body(
        "add.rn.f64 %f0, 0d0000000000000000, 0d0000000000000000;",
        "%f0 is Single",
    );
    of_body("mov.f32 %f6, 0f00000000;", "%f6 is not declared");
    of_body("mov.f32 %f0, 1.0;", "1.0 is no Single");
    of_body("add.s64 %rd2, %rd2;", "2 operands");
    of_body("bra L7;", "no code behind label L7");
    of_body("L0:\nL0:", "a second label");
    of_body("ld.param.u32 %r3, [x];", "x is Bits64");
    of_body("ld.local.f32 %f0, [%rd0];", "an unknown space");
    of_body("ld.global.v4.f32 {%f0, %f1}, [%rd0];", "2 registers, not 4");
    of_body("mov.u64 %rd6, %rd0", "no semicolon");
    refuses(&text("").replace("7.8", "8.0"), ".version 7.8");
    refuses(
        &text("").replace(".maxntid 64", ".maxntid 60"),
        "whole warps",
    );
    refuses(&text("").replace("    ret;\n", ""), "does not end with ret");
    assert!(Module::parse(&text("")).is_ok());
}

#[test]
fn a_kernel_and_its_text_declare_the_same() {
    let error = run(
        &text("").replace(".u64 y", ".u64 z").replace("[y]", "[z]"),
        1,
        Schedule::default(),
    );
    let error = error.unwrap_err();
    assert!(
        error
            .message
            .contains("kernel k: the text declares other parameters"),
        "{error:?}"
    );
    let error = run(
        &text("").replace(".entry k", ".entry l"),
        1,
        Schedule::default(),
    );
    assert!(error.unwrap_err().message.contains("no entry of this name"));
}
