//! A thin layer over Cranelift's function builder for the functions of the host program: references to symbols, memory
//! at fixed offsets, early returns.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    self, AbiParam, ExtFuncData, ExternalName, Function, GlobalValueData, InstBuilder, MemFlagsData, Signature,
    StackSlotData, StackSlotKind, Type, UserExternalName, UserFuncName, Value, types,
};
use cranelift_codegen::isa::CallConv;
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use target_lexicon::BinaryFormat;

use onnxc_ir::dim::{DimFold, Symbol};

/// Symbols that functions refer to, by the number that Cranelift knows them by.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<String>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        match self.0.iter().position(|n| n == name) {
            Some(i) => i as u32,
            None => {
                self.0.push(name.to_owned());
                self.0.len() as u32 - 1
            }
        }
    }

    /// The symbol of a number.
    pub fn name(&self, name: &UserExternalName) -> String {
        self.0[name.index as usize].clone()
    }
}

/// A function under construction.
pub struct Code<'f> {
    /// The builder.
    pub f: FunctionBuilder<'f>,
    names: Names,
    convention: CallConv,
    /// Every symbol is within reach of a displacement: COFF has no GOT, and its images are smaller than 2 GiB.
    all_near: bool,
}

/// Builds a function: `body` gets the code and the parameters, and returns.
pub fn function(
    isa: &dyn TargetIsa,
    params: &[Type],
    result: Option<Type>,
    body: impl FnOnce(&mut Code<'_>, &[Value]),
) -> (Function, Names) {
    let convention = isa.default_call_conv();
    let mut signature = Signature::new(convention);
    signature.params = params.iter().copied().map(AbiParam::new).collect();
    signature.returns = result.into_iter().map(AbiParam::new).collect();
    let mut function = Function::with_name_signature(UserFuncName::default(), signature);
    let mut context = FunctionBuilderContext::new();
    let all_near = isa.triple().binary_format == BinaryFormat::Coff;
    let f = FunctionBuilder::new(&mut function, &mut context);
    let mut code = Code { f, names: Names::default(), convention, all_near };
    let entry = code.f.create_block();
    code.f.append_block_params_for_function_params(entry);
    code.f.switch_to_block(entry);
    let params = code.f.block_params(entry).to_vec();
    body(&mut code, &params);
    code.f.seal_all_blocks();
    let names = std::mem::take(&mut code.names);
    code.f.finalize(isa.frontend_config());
    (function, names)
}

impl Code<'_> {
    /// A 64-bit constant.
    pub fn int(&mut self, value: i64) -> Value {
        self.f.ins().iconst(types::I64, value)
    }

    /// A 32-bit constant.
    pub fn int32(&mut self, value: i32) -> Value {
        self.f.ins().iconst(types::I32, i64::from(value as u32))
    }

    /// Reads from `base + offset`.
    pub fn load(&mut self, ty: Type, base: Value, offset: i32) -> Value {
        self.f.ins().load(ty, MemFlagsData::trusted(), base, offset)
    }

    /// Writes to `base + offset`.
    pub fn store(&mut self, value: Value, base: Value, offset: i32) {
        self.f.ins().store(MemFlagsData::trusted(), value, base, offset);
    }

    /// `a + constant`.
    pub fn add(&mut self, a: Value, constant: i64) -> Value {
        if constant == 0 { a } else { self.f.ins().iadd_imm_s(a, constant) }
    }

    /// Room on the stack: its address.
    pub fn stack(&mut self, bytes: u32) -> Value {
        let slot = self.f.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes.max(8), 4));
        self.f.ins().stack_addr(types::I64, slot, 0)
    }

    /// The address of a symbol of the same object; weights may be far away.
    pub fn symbol(&mut self, name: &str, near: bool) -> Value {
        let number = self.names.number(name);
        let reference = self.f.func.declare_imported_user_function(UserExternalName::new(0, number));
        let global = self.f.create_global_value(GlobalValueData::Symbol {
            name: ExternalName::user(reference),
            offset: 0.into(),
            colocated: near || self.all_near,
            tls: false,
        });
        self.f.ins().symbol_value(types::I64, global)
    }

    /// Calls a function by its symbol.
    pub fn call(&mut self, name: &str, near: bool, result: Option<Type>, arguments: &[Value]) -> Option<Value> {
        let number = self.names.number(name);
        let reference = self.f.func.declare_imported_user_function(UserExternalName::new(0, number));
        let signature = self.signature(self.convention, result, arguments);
        let data = ExtFuncData {
            name: ExternalName::user(reference),
            signature,
            colocated: near || self.all_near,
            patchable: false,
        };
        let callee = self.f.import_function(data);
        let call = self.f.ins().call(callee, arguments);
        self.f.inst_results(call).first().copied()
    }

    /// Calls a callback of the platform's convention.
    pub fn call_pointer(&mut self, pointer: Value, arguments: &[Value]) {
        self.call_pointer_for(pointer, None, arguments);
    }

    /// Calls a callback of the platform's convention that gives a result.
    pub fn call_pointer_for(&mut self, pointer: Value, result: Option<Type>, arguments: &[Value]) -> Option<Value> {
        let signature = self.signature(self.convention, result, arguments);
        let call = self.f.ins().call_indirect(signature, pointer, arguments);
        self.f.inst_results(call).first().copied()
    }

    /// Calls a kernel, whose convention is System V everywhere.
    pub fn call_kernel(&mut self, pointer: Value, arguments: &[Value]) {
        let signature = self.signature(CallConv::SystemV, None, arguments);
        self.f.ins().call_indirect(signature, pointer, arguments);
    }

    fn signature(&mut self, convention: CallConv, result: Option<Type>, arguments: &[Value]) -> ir::SigRef {
        let mut signature = Signature::new(convention);
        signature.params = arguments.iter().map(|&v| AbiParam::new(self.f.func.dfg.value_type(v))).collect();
        signature.returns = result.into_iter().map(AbiParam::new).collect();
        self.f.import_signature(signature)
    }

    /// `a condition b`.
    pub fn compare(&mut self, condition: IntCC, a: Value, b: Value) -> Value {
        self.f.ins().icmp(condition, a, b)
    }

    /// `a condition constant`.
    pub fn compare_with(&mut self, condition: IntCC, a: Value, constant: i64) -> Value {
        self.f.ins().icmp_imm_s(condition, a, constant)
    }

    /// Runs `then` if the condition holds, and goes on after it.
    pub fn when(&mut self, condition: Value, then: impl FnOnce(&mut Self)) {
        let (some, after) = (self.f.create_block(), self.f.create_block());
        self.f.ins().brif(condition, some, &[], after, &[]);
        self.f.switch_to_block(some);
        then(self);
        self.f.ins().jump(after, &[]);
        self.f.switch_to_block(after);
    }

    /// Leaves the function if the condition holds; `then` gives the result.
    pub fn leave_if(&mut self, condition: Value, then: impl FnOnce(&mut Self) -> Value) {
        let (some, after) = (self.f.create_block(), self.f.create_block());
        self.f.ins().brif(condition, some, &[], after, &[]);
        self.f.switch_to_block(some);
        let result = then(self);
        self.f.ins().return_(&[result]);
        self.f.switch_to_block(after);
    }

    /// Leaves the function with a status if the condition holds.
    pub fn leave_with(&mut self, condition: Value, status: i32) {
        self.leave_if(condition, |c| c.int32(status));
    }

    /// Runs `body` for `i` in `lo..hi`.
    pub fn each(&mut self, lo: Value, hi: Value, body: impl FnOnce(&mut Self, Value)) {
        let (top, inside, after) = (self.f.create_block(), self.f.create_block(), self.f.create_block());
        let i = self.f.append_block_param(top, types::I64);
        self.f.ins().jump(top, &[lo.into()]);
        self.f.switch_to_block(top);
        let more = self.f.ins().icmp(IntCC::SignedLessThan, i, hi);
        self.f.ins().brif(more, inside, &[], after, &[]);
        self.f.switch_to_block(inside);
        body(self, i);
        let next = self.add(i, 1);
        self.f.ins().jump(top, &[next.into()]);
        self.f.switch_to_block(after);
    }
}

/// Computes dimension expressions from an array of the symbols' values.
pub struct DimCode<'c, 'f> {
    /// The code.
    pub code: &'c mut Code<'f>,
    /// The address of the array.
    pub dims: Value,
    /// Where sums and products are watched: whether one of them did not fit 64 bits, an `i8`.
    pub wraps: Option<Value>,
}

impl DimFold for DimCode<'_, '_> {
    type Value = Value;

    fn constant(&mut self, value: i64) -> Value {
        self.code.int(value)
    }

    fn symbol(&mut self, symbol: Symbol) -> Value {
        use cranelift_entity::EntityRef;
        self.code.load(types::I64, self.dims, symbol.index() as i32 * 8)
    }

    fn add(&mut self, a: Value, b: Value) -> Value {
        let sum = self.code.f.ins().iadd(a, b);
        if let Some(wraps) = self.wraps {
            // The sum of two numbers of one sign has it too.
            let (x, y) = (self.code.f.ins().bxor(a, sum), self.code.f.ins().bxor(b, sum));
            let both = self.code.f.ins().band(x, y);
            let wrong = self.code.compare_with(IntCC::SignedLessThan, both, 0);
            self.wraps = Some(self.code.f.ins().bor(wraps, wrong));
        }
        sum
    }

    fn mul(&mut self, a: Value, b: Value) -> Value {
        let product = self.code.f.ins().imul(a, b);
        if let Some(wraps) = self.wraps {
            let (high, sign) = (self.code.f.ins().smulhi(a, b), self.code.f.ins().sshr_imm_u(product, 63));
            let wrong = self.code.compare(IntCC::NotEqual, high, sign);
            self.wraps = Some(self.code.f.ins().bor(wraps, wrong));
        }
        product
    }

    fn floor_div(&mut self, a: Value, b: Value) -> Value {
        // A divisor that is 0 or less gives the quotient by 1: no dimension makes it matter, and nothing traps.
        let b = self.positive(b);
        let quotient = self.code.f.ins().sdiv(a, b);
        let product = self.code.f.ins().imul(quotient, b);
        let above = self.code.f.ins().icmp(IntCC::SignedGreaterThan, product, a);
        let above = self.code.f.ins().uextend(types::I64, above);
        self.code.f.ins().isub(quotient, above)
    }

    fn modulo(&mut self, a: Value, b: Value) -> Value {
        let b = self.positive(b);
        let remainder = self.code.f.ins().srem(a, b);
        let shifted = self.code.f.ins().iadd(remainder, b);
        let negative = self.code.compare_with(IntCC::SignedLessThan, remainder, 0);
        self.code.f.ins().select(negative, shifted, remainder)
    }

    fn min(&mut self, a: Value, b: Value) -> Value {
        self.code.f.ins().smin(a, b)
    }

    fn max(&mut self, a: Value, b: Value) -> Value {
        self.code.f.ins().smax(a, b)
    }
}

impl DimCode<'_, '_> {
    fn positive(&mut self, b: Value) -> Value {
        let one = self.code.int(1);
        self.code.f.ins().smax(b, one)
    }
}
