//! Encodings of the vector instructions in use, by the width of their registers: 128, 256 and 512 bits.

use iced_x86::Code;

/// One encoding for each width.
pub type Wide = [Code; 3];

/// `vaddps`.
pub const ADD_PS: Wide = [
    Code::EVEX_Vaddps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vaddps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er,
];

/// `vaddpd`.
pub const ADD_PD: Wide = [
    Code::EVEX_Vaddpd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vaddpd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vaddpd_zmm_k1z_zmm_zmmm512b64_er,
];

/// `vsubps`.
pub const SUB_PS: Wide = [
    Code::EVEX_Vsubps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vsubps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er,
];

/// `vsubpd`.
pub const SUB_PD: Wide = [
    Code::EVEX_Vsubpd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vsubpd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vsubpd_zmm_k1z_zmm_zmmm512b64_er,
];

/// `vmulps`.
pub const MUL_PS: Wide = [
    Code::EVEX_Vmulps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vmulps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er,
];

/// `vmulpd`.
pub const MUL_PD: Wide = [
    Code::EVEX_Vmulpd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vmulpd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vmulpd_zmm_k1z_zmm_zmmm512b64_er,
];

/// `vdivps`.
pub const DIV_PS: Wide = [
    Code::EVEX_Vdivps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vdivps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er,
];

/// `vdivpd`.
pub const DIV_PD: Wide = [
    Code::EVEX_Vdivpd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vdivpd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vdivpd_zmm_k1z_zmm_zmmm512b64_er,
];

/// `vminps`.
pub const MIN_PS: Wide = [
    Code::EVEX_Vminps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vminps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae,
];

/// `vminpd`.
pub const MIN_PD: Wide = [
    Code::EVEX_Vminpd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vminpd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vminpd_zmm_k1z_zmm_zmmm512b64_sae,
];

/// `vmaxps`.
pub const MAX_PS: Wide = [
    Code::EVEX_Vmaxps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vmaxps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae,
];

/// `vmaxpd`.
pub const MAX_PD: Wide = [
    Code::EVEX_Vmaxpd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vmaxpd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vmaxpd_zmm_k1z_zmm_zmmm512b64_sae,
];

/// `vfmadd231ps`.
pub const FMA_PS: Wide = [
    Code::EVEX_Vfmadd231ps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vfmadd231ps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er,
];

/// `vfmadd231pd`.
pub const FMA_PD: Wide = [
    Code::EVEX_Vfmadd231pd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vfmadd231pd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vfmadd231pd_zmm_k1z_zmm_zmmm512b64_er,
];

/// `vfmadd213ps`.
pub const FMA_INTO_FACTOR_PS: Wide = [
    Code::EVEX_Vfmadd213ps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vfmadd213ps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er,
];

/// `vfmadd213pd`.
pub const FMA_INTO_FACTOR_PD: Wide = [
    Code::EVEX_Vfmadd213pd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vfmadd213pd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vfmadd213pd_zmm_k1z_zmm_zmmm512b64_er,
];

/// `vsqrtps`.
pub const SQRT_PS: Wide = [
    Code::EVEX_Vsqrtps_xmm_k1z_xmmm128b32,
    Code::EVEX_Vsqrtps_ymm_k1z_ymmm256b32,
    Code::EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er,
];

/// `vsqrtpd`.
pub const SQRT_PD: Wide = [
    Code::EVEX_Vsqrtpd_xmm_k1z_xmmm128b64,
    Code::EVEX_Vsqrtpd_ymm_k1z_ymmm256b64,
    Code::EVEX_Vsqrtpd_zmm_k1z_zmmm512b64_er,
];

/// `vrndscaleps`.
pub const ROUND_PS: Wide = [
    Code::EVEX_Vrndscaleps_xmm_k1z_xmmm128b32_imm8,
    Code::EVEX_Vrndscaleps_ymm_k1z_ymmm256b32_imm8,
    Code::EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae,
];

/// `vrndscalepd`.
pub const ROUND_PD: Wide = [
    Code::EVEX_Vrndscalepd_xmm_k1z_xmmm128b64_imm8,
    Code::EVEX_Vrndscalepd_ymm_k1z_ymmm256b64_imm8,
    Code::EVEX_Vrndscalepd_zmm_k1z_zmmm512b64_imm8_sae,
];

/// `vcmpps`.
pub const CMP_PS: Wide = [
    Code::EVEX_Vcmpps_kr_k1_xmm_xmmm128b32_imm8,
    Code::EVEX_Vcmpps_kr_k1_ymm_ymmm256b32_imm8,
    Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae,
];

/// `vcmppd`.
pub const CMP_PD: Wide = [
    Code::EVEX_Vcmppd_kr_k1_xmm_xmmm128b64_imm8,
    Code::EVEX_Vcmppd_kr_k1_ymm_ymmm256b64_imm8,
    Code::EVEX_Vcmppd_kr_k1_zmm_zmmm512b64_imm8_sae,
];

/// `vpcmpd`.
pub const CMP_D: Wide = [
    Code::EVEX_Vpcmpd_kr_k1_xmm_xmmm128b32_imm8,
    Code::EVEX_Vpcmpd_kr_k1_ymm_ymmm256b32_imm8,
    Code::EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8,
];

/// `vpcmpud`.
pub const CMP_UD: Wide = [
    Code::EVEX_Vpcmpud_kr_k1_xmm_xmmm128b32_imm8,
    Code::EVEX_Vpcmpud_kr_k1_ymm_ymmm256b32_imm8,
    Code::EVEX_Vpcmpud_kr_k1_zmm_zmmm512b32_imm8,
];

/// `vpcmpq`.
pub const CMP_Q: Wide = [
    Code::EVEX_Vpcmpq_kr_k1_xmm_xmmm128b64_imm8,
    Code::EVEX_Vpcmpq_kr_k1_ymm_ymmm256b64_imm8,
    Code::EVEX_Vpcmpq_kr_k1_zmm_zmmm512b64_imm8,
];

/// `vpcmpuq`.
pub const CMP_UQ: Wide = [
    Code::EVEX_Vpcmpuq_kr_k1_xmm_xmmm128b64_imm8,
    Code::EVEX_Vpcmpuq_kr_k1_ymm_ymmm256b64_imm8,
    Code::EVEX_Vpcmpuq_kr_k1_zmm_zmmm512b64_imm8,
];

/// `vblendmps`.
pub const BLEND_PS: Wide = [
    Code::EVEX_Vblendmps_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vblendmps_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32,
];

/// `vblendmpd`.
pub const BLEND_PD: Wide = [
    Code::EVEX_Vblendmpd_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vblendmpd_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vblendmpd_zmm_k1z_zmm_zmmm512b64,
];

/// `vpaddd`.
pub const ADD_D: Wide = [
    Code::EVEX_Vpaddd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpaddd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpsubd`.
pub const SUB_D: Wide = [
    Code::EVEX_Vpsubd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpsubd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpmulld`.
pub const MUL_D: Wide = [
    Code::EVEX_Vpmulld_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpmulld_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32,
];

/// `vpandd`.
pub const AND_D: Wide = [
    Code::EVEX_Vpandd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpandd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpord`.
pub const OR_D: Wide = [
    Code::EVEX_Vpord_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpord_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32,
];

/// `vpxord`.
pub const XOR_D: Wide = [
    Code::EVEX_Vpxord_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpxord_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
];

/// `vpsllvd`.
pub const SHL_D: Wide = [
    Code::EVEX_Vpsllvd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpsllvd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpsllvd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpsrlvd`.
pub const SHR_D: Wide = [
    Code::EVEX_Vpsrlvd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpsrlvd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpsrlvd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpsravd`.
pub const SAR_D: Wide = [
    Code::EVEX_Vpsravd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpsravd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpsravd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpminsd`.
pub const MIN_SD: Wide = [
    Code::EVEX_Vpminsd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpminsd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpminud`.
pub const MIN_UD: Wide = [
    Code::EVEX_Vpminud_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpminud_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpminud_zmm_k1z_zmm_zmmm512b32,
];

/// `vpmaxsd`.
pub const MAX_SD: Wide = [
    Code::EVEX_Vpmaxsd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpmaxsd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpmaxud`.
pub const MAX_UD: Wide = [
    Code::EVEX_Vpmaxud_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpmaxud_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpmaxud_zmm_k1z_zmm_zmmm512b32,
];

/// `vpabsd`.
pub const ABS_D: Wide =
    [Code::EVEX_Vpabsd_xmm_k1z_xmmm128b32, Code::EVEX_Vpabsd_ymm_k1z_ymmm256b32, Code::EVEX_Vpabsd_zmm_k1z_zmmm512b32];

/// `vpmaddwd`.
pub const MADD_WD: Wide = [
    Code::EVEX_Vpmaddwd_xmm_k1z_xmm_xmmm128,
    Code::EVEX_Vpmaddwd_ymm_k1z_ymm_ymmm256,
    Code::EVEX_Vpmaddwd_zmm_k1z_zmm_zmmm512,
];

/// `vpdpbusd`.
pub const DOT_UNSIGNED_SIGNED: Wide = [
    Code::EVEX_Vpdpbusd_xmm_k1z_xmm_xmmm128b32,
    Code::EVEX_Vpdpbusd_ymm_k1z_ymm_ymmm256b32,
    Code::EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32,
];

/// `vpsllw` by an immediate.
pub const SHL_W: Wide = [
    Code::EVEX_Vpsllw_xmm_k1z_xmmm128_imm8,
    Code::EVEX_Vpsllw_ymm_k1z_ymmm256_imm8,
    Code::EVEX_Vpsllw_zmm_k1z_zmmm512_imm8,
];

/// `vpsrlw` by an immediate.
pub const SHR_W: Wide = [
    Code::EVEX_Vpsrlw_xmm_k1z_xmmm128_imm8,
    Code::EVEX_Vpsrlw_ymm_k1z_ymmm256_imm8,
    Code::EVEX_Vpsrlw_zmm_k1z_zmmm512_imm8,
];

/// `vpsraw` by an immediate.
pub const SAR_W: Wide = [
    Code::EVEX_Vpsraw_xmm_k1z_xmmm128_imm8,
    Code::EVEX_Vpsraw_ymm_k1z_ymmm256_imm8,
    Code::EVEX_Vpsraw_zmm_k1z_zmmm512_imm8,
];

/// `vpmovsxbd` from memory.
pub const LOAD_SIGNED_BYTES: Wide =
    [Code::EVEX_Vpmovsxbd_xmm_k1z_xmmm32, Code::EVEX_Vpmovsxbd_ymm_k1z_xmmm64, Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128];

/// `vpmovzxbd` from memory.
pub const LOAD_UNSIGNED_BYTES: Wide =
    [Code::EVEX_Vpmovzxbd_xmm_k1z_xmmm32, Code::EVEX_Vpmovzxbd_ymm_k1z_xmmm64, Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128];

/// `vpmovdb` to memory.
pub const STORE_BYTES: Wide =
    [Code::EVEX_Vpmovdb_xmmm32_k1z_xmm, Code::EVEX_Vpmovdb_xmmm64_k1z_ymm, Code::EVEX_Vpmovdb_xmmm128_k1z_zmm];

/// `vpmovsxwd` from memory.
pub const LOAD_SIGNED_SHORTS: Wide =
    [Code::EVEX_Vpmovsxwd_xmm_k1z_xmmm64, Code::EVEX_Vpmovsxwd_ymm_k1z_xmmm128, Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256];

/// `vpmovzxwd` from memory.
pub const LOAD_UNSIGNED_SHORTS: Wide =
    [Code::EVEX_Vpmovzxwd_xmm_k1z_xmmm64, Code::EVEX_Vpmovzxwd_ymm_k1z_xmmm128, Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256];

/// `vpmovdw` to memory.
pub const STORE_SHORTS: Wide =
    [Code::EVEX_Vpmovdw_xmmm64_k1z_xmm, Code::EVEX_Vpmovdw_xmmm128_k1z_ymm, Code::EVEX_Vpmovdw_ymmm256_k1z_zmm];

/// Halves of the registers of 32-bit lanes, from memory.
pub const LOAD_HALVES: Wide =
    [Code::EVEX_Vmovq_xmm_xmmm64, Code::EVEX_Vmovups_xmm_k1z_xmmm128, Code::EVEX_Vmovups_ymm_k1z_ymmm256];

/// Halves of the registers of 32-bit lanes, to memory.
pub const STORE_HALVES: Wide =
    [Code::EVEX_Vmovq_xmmm64_xmm, Code::EVEX_Vmovups_xmmm128_k1z_xmm, Code::EVEX_Vmovups_ymmm256_k1z_ymm];

/// `vmovdqu16` from memory, for the lanes of a mask.
pub const LOAD_SOME_HALVES: Wide =
    [Code::EVEX_Vmovdqu16_xmm_k1z_xmmm128, Code::EVEX_Vmovdqu16_xmm_k1z_xmmm128, Code::EVEX_Vmovdqu16_ymm_k1z_ymmm256];

/// `vmovdqu16` to memory, for the lanes of a mask.
pub const STORE_SOME_HALVES: Wide =
    [Code::EVEX_Vmovdqu16_xmmm128_k1z_xmm, Code::EVEX_Vmovdqu16_xmmm128_k1z_xmm, Code::EVEX_Vmovdqu16_ymmm256_k1z_ymm];

/// `vpbroadcastw` from memory.
pub const SPLAT_HALF: Wide = [
    Code::EVEX_Vpbroadcastw_xmm_k1z_xmmm16,
    Code::EVEX_Vpbroadcastw_xmm_k1z_xmmm16,
    Code::EVEX_Vpbroadcastw_ymm_k1z_xmmm16,
];

/// `vcvtph2ps`.
pub const HALF_TO_F32: Wide = [
    Code::EVEX_Vcvtph2ps_xmm_k1z_xmmm64,
    Code::EVEX_Vcvtph2ps_ymm_k1z_xmmm128,
    Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae,
];

/// `vcvtps2ph`.
pub const F32_TO_HALF: Wide = [
    Code::EVEX_Vcvtps2ph_xmmm64_k1z_xmm_imm8,
    Code::EVEX_Vcvtps2ph_xmmm128_k1z_ymm_imm8,
    Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae,
];

/// `vpaddq`.
pub const ADD_Q: Wide = [
    Code::EVEX_Vpaddq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpaddq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpaddq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpsubq`.
pub const SUB_Q: Wide = [
    Code::EVEX_Vpsubq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpsubq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpsubq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpmullq`.
pub const MUL_Q: Wide = [
    Code::EVEX_Vpmullq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpmullq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpmullq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpandq`.
pub const AND_Q: Wide = [
    Code::EVEX_Vpandq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpandq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpandq_zmm_k1z_zmm_zmmm512b64,
];

/// `vporq`.
pub const OR_Q: Wide = [
    Code::EVEX_Vporq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vporq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vporq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpxorq`.
pub const XOR_Q: Wide = [
    Code::EVEX_Vpxorq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpxorq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpxorq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpsllvq`.
pub const SHL_Q: Wide = [
    Code::EVEX_Vpsllvq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpsllvq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpsllvq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpsrlvq`.
pub const SHR_Q: Wide = [
    Code::EVEX_Vpsrlvq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpsrlvq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpsrlvq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpsravq`.
pub const SAR_Q: Wide = [
    Code::EVEX_Vpsravq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpsravq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpsravq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpminsq`.
pub const MIN_SQ: Wide = [
    Code::EVEX_Vpminsq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpminsq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpminsq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpminuq`.
pub const MIN_UQ: Wide = [
    Code::EVEX_Vpminuq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpminuq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpminuq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpmaxsq`.
pub const MAX_SQ: Wide = [
    Code::EVEX_Vpmaxsq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpmaxsq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpmaxsq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpmaxuq`.
pub const MAX_UQ: Wide = [
    Code::EVEX_Vpmaxuq_xmm_k1z_xmm_xmmm128b64,
    Code::EVEX_Vpmaxuq_ymm_k1z_ymm_ymmm256b64,
    Code::EVEX_Vpmaxuq_zmm_k1z_zmm_zmmm512b64,
];

/// `vpabsq`.
pub const ABS_Q: Wide =
    [Code::EVEX_Vpabsq_xmm_k1z_xmmm128b64, Code::EVEX_Vpabsq_ymm_k1z_ymmm256b64, Code::EVEX_Vpabsq_zmm_k1z_zmmm512b64];

/// `vmovups` from memory or a register.
pub const LOAD_PS: Wide =
    [Code::EVEX_Vmovups_xmm_k1z_xmmm128, Code::EVEX_Vmovups_ymm_k1z_ymmm256, Code::EVEX_Vmovups_zmm_k1z_zmmm512];

/// `vmovupd` from memory or a register.
pub const LOAD_PD: Wide =
    [Code::EVEX_Vmovupd_xmm_k1z_xmmm128, Code::EVEX_Vmovupd_ymm_k1z_ymmm256, Code::EVEX_Vmovupd_zmm_k1z_zmmm512];

/// `vmovups` to memory.
pub const STORE_PS: Wide =
    [Code::EVEX_Vmovups_xmmm128_k1z_xmm, Code::EVEX_Vmovups_ymmm256_k1z_ymm, Code::EVEX_Vmovups_zmmm512_k1z_zmm];

/// `vmovupd` to memory.
pub const STORE_PD: Wide =
    [Code::EVEX_Vmovupd_xmmm128_k1z_xmm, Code::EVEX_Vmovupd_ymmm256_k1z_ymm, Code::EVEX_Vmovupd_zmmm512_k1z_zmm];

/// `vcvtdq2ps`.
pub const I32_TO_F32: Wide = [
    Code::EVEX_Vcvtdq2ps_xmm_k1z_xmmm128b32,
    Code::EVEX_Vcvtdq2ps_ymm_k1z_ymmm256b32,
    Code::EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er,
];

/// `vcvtudq2ps`.
pub const U32_TO_F32: Wide = [
    Code::EVEX_Vcvtudq2ps_xmm_k1z_xmmm128b32,
    Code::EVEX_Vcvtudq2ps_ymm_k1z_ymmm256b32,
    Code::EVEX_Vcvtudq2ps_zmm_k1z_zmmm512b32_er,
];

/// `vcvttps2dq`.
pub const F32_TO_I32: Wide = [
    Code::EVEX_Vcvttps2dq_xmm_k1z_xmmm128b32,
    Code::EVEX_Vcvttps2dq_ymm_k1z_ymmm256b32,
    Code::EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae,
];

/// `vcvtqq2pd`.
pub const I64_TO_F64: Wide = [
    Code::EVEX_Vcvtqq2pd_xmm_k1z_xmmm128b64,
    Code::EVEX_Vcvtqq2pd_ymm_k1z_ymmm256b64,
    Code::EVEX_Vcvtqq2pd_zmm_k1z_zmmm512b64_er,
];

/// `vscatterqps` and `vscatterqpd`, by the width of the indices.
pub fn scatter(bits: u32) -> Wide {
    match bits {
        64 => [
            Code::EVEX_Vscatterqpd_vm64x_k1_xmm,
            Code::EVEX_Vscatterqpd_vm64y_k1_ymm,
            Code::EVEX_Vscatterqpd_vm64z_k1_zmm,
        ],
        _ => [
            Code::EVEX_Vscatterqps_vm64x_k1_xmm,
            Code::EVEX_Vscatterqps_vm64y_k1_xmm,
            Code::EVEX_Vscatterqps_vm64z_k1_ymm,
        ],
    }
}
