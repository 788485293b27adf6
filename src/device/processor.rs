//! Whether this processor can run this binary, asked before anything else runs.
//!
//! The crate is compiled for AVX2 (`.cargo/config.toml`), so no function of it may ask: on an older processor it would
//! die of an illegal instruction while asking. So the question is in assembly of the oldest x86-64, and the loader calls
//! it before `main` and before constructors, in tests and benchmarks as well.

use std::arch::global_asm;

/// Bits of CPUID that say what the compiler was allowed to use: of leaf 1, ECX, and of leaf 7, EBX.
const LEAF_1: u32 = bit(cfg!(target_feature = "fma"), 12)
    | bit(cfg!(target_feature = "movbe"), 22)
    | bit(cfg!(target_feature = "avx"), 27) // the system saves registers
    | bit(cfg!(target_feature = "avx"), 28)
    | bit(cfg!(target_feature = "f16c"), 29);
const LEAF_7: u32 = bit(cfg!(target_feature = "bmi1"), 3)
    | bit(cfg!(target_feature = "avx2"), 5)
    | bit(cfg!(target_feature = "bmi2"), 8)
    | bit(cfg!(target_feature = "avx512f"), 16)
    | bit(cfg!(target_feature = "avx512dq"), 17)
    | bit(cfg!(target_feature = "avx512bw"), 30)
    | bit(cfg!(target_feature = "avx512vl"), 31);
/// Registers that the system must save: those of SSE and AVX, and of AVX-512.
const SAVED: u32 = bit(cfg!(target_feature = "avx"), 1)
    | bit(cfg!(target_feature = "avx"), 2)
    | bit(cfg!(target_feature = "avx512f"), 5)
    | bit(cfg!(target_feature = "avx512f"), 6)
    | bit(cfg!(target_feature = "avx512f"), 7);

const fn bit(needed: bool, place: u32) -> u32 {
    (needed as u32) << place
}

unsafe extern "C" {
    fn stepback_check_processor();
}

// SAFETY: the function takes nothing, keeps to the C calling convention and returns or ends the process. The loader calls
// what stands in `.init_array`, numbers first; 00000 comes before every constructor of a C++ library.
#[used]
#[unsafe(link_section = ".init_array.00000")]
static BEFORE_MAIN: unsafe extern "C" fn() = stepback_check_processor;

global_asm!(
    ".section .text.stepback_check_processor, \"ax\", @progbits",
    ".globl stepback_check_processor",
    ".hidden stepback_check_processor",
    ".type stepback_check_processor, @function",
    "stepback_check_processor:",
    "push rbx", // CPUID writes it, and it is the caller's
    "xor eax, eax",
    "cpuid",
    "cmp eax, 7", // the highest leaf
    "jb 3f",
    "mov eax, 1",
    "cpuid",
    "not ecx",
    "test ecx, {leaf_1}",
    "jnz 2f",
    "mov eax, 7",
    "xor ecx, ecx",
    "cpuid",
    "not ebx",
    "test ebx, {leaf_7}",
    "jnz 2f",
    "mov ecx, {saved}",
    "jecxz 4f",
    "xor ecx, ecx",
    "xgetbv",
    "not eax",
    "test eax, {saved}",
    "jnz 2f",
    "4: pop rbx",
    "ret",
    "3: mov ecx, {any}",
    "jecxz 4b",
    "2: mov eax, 1", // write(2, ...)
    "mov edi, 2",
    "lea rsi, [rip + 5f]",
    "lea rdx, [rip + 6f]",
    "sub rdx, rsi",
    "syscall",
    "mov eax, 231", // exit_group(2)
    "mov edi, 2",
    "syscall",
    ".size stepback_check_processor, . - stepback_check_processor",
    ".section .rodata.stepback_check_processor, \"a\", @progbits",
    "5: .ascii \"error: this processor lacks instructions that the binary was compiled for (AVX2 and FMA, \"",
    ".ascii \"unless RUSTFLAGS said otherwise): build it on this machine with RUSTFLAGS=\\\"-C target-cpu=native\\\"\\n\"",
    "6:",
    ".text",
    leaf_1 = const LEAF_1,
    leaf_7 = const LEAF_7,
    saved = const SAVED,
    any = const LEAF_1 | LEAF_7,
);
