//! The Tensor IR: a typed graph in SSA form over whole tensors.
//!
//! A [`Graph`] owns everything through typed handles. Nodes live in [`Region`]s, ordered lists that are always
//! topologically sorted between passes. Regions are closed: a region sees its parameters and nothing of the region
//! around it, so it can be moved, interpreted and scheduled on its own.
//!
//! Invariant: every node carries at least one [`Origin`], the ONNX node it came from; passes merge origins, none drops one.
//! Invariant: what mentions a size that data decides comes after the [`Op::BindSizes`] that binds it; sizes, unlike values,
//! are seen by nested regions.
//! Invariant: all tensors are dense and row-major. A layout is a permutation of dimensions that a `Transpose` states.
//! Invariant: the output types of a node are what [`infer`] derives from its operation and input types, where it derives any.
//!
//! Passes append nodes, replace values ([`Graph::replace`]) and call [`Graph::commit`], which rewrites uses, removes dead
//! nodes and restores the order, all in linear time.

pub mod build;
mod commit;
pub mod constant;
pub mod dot;
pub mod external;
pub mod infer;
pub mod interp;
pub mod known;
pub mod op;
pub mod parse;
pub mod print;
pub mod shape;
pub mod side_file;
pub mod verify;
pub mod winograd;

use cranelift_entity::{PrimaryMap, SecondaryMap, entity_impl};
use smallvec::SmallVec;

pub use build::Builder;
pub use constant::{ConstantData, ConstantSource, TensorBytes};
pub use external::{Attribute, External};
pub use known::KnownValue;
pub use op::{CompositeKind, Op};

use crate::dim::{Dim, Symbols};
use crate::dtype::DType;
use crate::strings::StringTable;

/// A node of the graph: one operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(u32);
entity_impl!(Node, "n");

/// An SSA value: a node's output or a region's parameter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(u32);
entity_impl!(Value, "v");

/// A list of nodes with parameters and results.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region(u32);
entity_impl!(Region, "region");

/// A constant tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Constant(u32);
entity_impl!(Constant, "c");

/// The ONNX node that something comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(u32);
entity_impl!(Origin, "o");

/// The dimensions of a tensor.
pub type Shape = SmallVec<[Dim; 5]>;

/// The type of a tensor value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The element type.
    pub dtype: DType,
    /// The dimensions, outermost first; each is at least 0 at run time.
    pub shape: Shape,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A dense tensor.
    Tensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A value or nothing.
    Optional(Box<Type>),
    /// A map from keys (integers or strings) to values.
    Map(DType, Box<Type>),
}

impl TensorType {
    /// A tensor type with these dimensions.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> TensorType {
        TensorType { dtype, shape: shape.into_iter().collect() }
    }

    /// A tensor type with constant dimensions.
    pub fn fixed(dtype: DType, shape: &[i64]) -> TensorType {
        TensorType { dtype, shape: shape.iter().map(|&d| Dim::from(d)).collect() }
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The dimensions if all are constants.
    pub fn static_shape(&self) -> Option<SmallVec<[i64; 5]>> {
        self.shape.iter().map(Dim::as_const).collect()
    }

    /// The number of elements if all dimensions are constants and the product does not overflow.
    pub fn static_len(&self) -> Option<i64> {
        self.shape.iter().try_fold(1i64, |n, d| n.checked_mul(d.as_const()?))
    }
}

impl Type {
    /// The tensor type, if it is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

impl Type {
    /// Replaces the dimensions.
    pub fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        match self {
            Type::Tensor(t) => t.shape.iter_mut().for_each(|d| *d = f(d)),
            Type::Sequence(t) | Type::Optional(t) | Type::Map(_, t) => t.map_dims(f),
        }
    }
}

impl From<TensorType> for Type {
    fn from(t: TensorType) -> Type {
        Type::Tensor(t)
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueDef {
    /// The `n`-th output of a node.
    Output(Node, u32),
    /// The `n`-th parameter of a region.
    Param(Region, u32),
}

/// A value's record.
#[derive(Clone, Debug)]
pub struct ValueData {
    /// The type.
    pub ty: Type,
    /// The definition.
    pub def: ValueDef,
}

/// Input list of a node.
pub type Values = SmallVec<[Value; 4]>;

/// Origins of a node.
pub type Origins = SmallVec<[Origin; 2]>;

/// A node's record.
#[derive(Clone, Debug)]
pub struct NodeData {
    /// The operation.
    pub op: Op,
    /// The operands.
    pub inputs: Values,
    /// The results, at least one.
    pub outputs: Values,
    /// The ONNX nodes it came from, sorted, at least one.
    pub origins: Origins,
}

/// A region's record.
#[derive(Clone, Debug, Default)]
pub struct RegionData {
    /// The parameters.
    pub params: Vec<Value>,
    /// The nodes, each after the nodes it uses.
    pub nodes: Vec<Node>,
    /// The results.
    pub results: Vec<Value>,
}

/// An ONNX node's name for messages, profiles and symbols.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginData {
    /// The node's name, or its place such as `#12`, with the names of enclosing nodes before it: `loop/body/add`.
    pub path: String,
    /// The operator with its domain: `Conv`, `com.microsoft.Gelu`.
    pub operator: String,
}

/// One model as a graph.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    /// The named dimensions.
    pub symbols: Symbols,
    /// Nodes.
    pub nodes: PrimaryMap<Node, NodeData>,
    /// Values.
    pub values: PrimaryMap<Value, ValueData>,
    /// Regions.
    pub regions: PrimaryMap<Region, RegionData>,
    /// Constants.
    pub constants: PrimaryMap<Constant, ConstantData>,
    /// The strings that constants hold the numbers of.
    pub strings: StringTable,
    /// Origins.
    pub origins: PrimaryMap<Origin, OriginData>,
    /// The region that is the model: its parameters are the model's inputs, its results the outputs.
    pub body: Option<Region>,
    /// The names of the inputs, in order.
    pub input_names: Vec<String>,
    /// The names of the outputs, in order.
    pub output_names: Vec<String>,
    /// Pairs of different expressions that the model cannot work with unless they are equal, such as the sizes of two
    /// operands of an addition. A run tests them on entry. Add to it with [`Graph::assume_equal`].
    pub assumptions: Vec<(Dim, Dim)>,
    /// What is known about the elements of small integer values; see [`known`].
    pub known: SecondaryMap<Value, Option<KnownValue>>,
    /// Replacements that wait for `commit`.
    replaced: SecondaryMap<Value, Option<Value>>,
}

impl Graph {
    /// An empty graph with an empty body.
    pub fn new(name: impl Into<String>) -> Graph {
        let mut graph = Graph { name: name.into(), ..Graph::default() };
        graph.body = Some(graph.regions.push(RegionData::default()));
        graph
    }

    /// The model's region.
    pub fn body(&self) -> Region {
        self.body.expect("a graph has a body")
    }

    /// A new empty region.
    pub fn add_region(&mut self) -> Region {
        self.regions.push(RegionData::default())
    }

    /// Appends a parameter to a region.
    pub fn add_param(&mut self, region: Region, ty: impl Into<Type>) -> Value {
        let def = ValueDef::Param(region, self.regions[region].params.len() as u32);
        let value = self.values.push(ValueData { ty: ty.into(), def });
        self.regions[region].params.push(value);
        value
    }

    /// Takes away a parameter that nothing uses.
    pub fn remove_param(&mut self, region: Region, n: usize) {
        self.regions[region].params.remove(n);
        for (i, &param) in self.regions[region].params.iter().enumerate().skip(n) {
            self.values[param].def = ValueDef::Param(region, i as u32);
        }
    }

    /// Appends a node with outputs of these types at the end of a region.
    ///
    /// # Panics
    /// If `origins` is empty.
    pub fn add_node(
        &mut self,
        region: Region,
        op: Op,
        inputs: impl IntoIterator<Item = Value>,
        types: impl IntoIterator<Item = Type>,
        origins: &[Origin],
    ) -> Node {
        assert!(!origins.is_empty(), "a node needs an origin");
        let mut origins: Origins = origins.into();
        origins.sort_unstable();
        origins.dedup();
        let inputs = inputs.into_iter().collect();
        let node = self.nodes.push(NodeData { op, inputs, outputs: SmallVec::new(), origins });
        for (i, ty) in types.into_iter().enumerate() {
            let value = self.values.push(ValueData { ty, def: ValueDef::Output(node, i as u32) });
            self.nodes[node].outputs.push(value);
        }
        self.regions[region].nodes.push(node);
        node
    }

    /// The node's only output.
    ///
    /// # Panics
    /// If it has another number of outputs.
    pub fn output(&self, node: Node) -> Value {
        let [value] = self.nodes[node].outputs[..] else { panic!("{node} has not exactly one output") };
        value
    }

    /// The value's type.
    pub fn ty(&self, value: Value) -> &Type {
        &self.values[value].ty
    }

    /// The value's tensor type.
    ///
    /// # Panics
    /// If the value is no tensor.
    pub fn tensor_ty(&self, value: Value) -> &TensorType {
        self.values[value].ty.as_tensor().expect("the value is a tensor")
    }

    /// The node that defines the value; `None` for a parameter.
    pub fn def_node(&self, value: Value) -> Option<Node> {
        match self.values[value].def {
            ValueDef::Output(node, _) => Some(node),
            ValueDef::Param(..) => None,
        }
    }

    /// The constant behind the value, if a `Constant` node defines it.
    pub fn as_constant(&self, value: Value) -> Option<Constant> {
        match self.nodes[self.def_node(value)?].op {
            Op::Constant(c) => Some(c),
            _ => None,
        }
    }

    /// Asks that every use of `old` become a use of `new` at the next [`Graph::commit`]. That includes uses by the nodes
    /// that compute `new`, so `new` must not depend on `old`.
    pub fn replace(&mut self, old: Value, new: Value) {
        if old != new {
            self.replaced[old] = Some(new);
        }
    }

    /// What `value` is replaced by so far.
    pub fn resolve(&self, mut value: Value) -> Value {
        while let Some(next) = self.replaced[value] {
            value = next;
        }
        value
    }

    /// Number of uses of each value as node inputs and region results.
    pub fn use_counts(&self) -> SecondaryMap<Value, u32> {
        let mut counts = SecondaryMap::with_capacity(self.values.len());
        for region in self.regions.values() {
            for &node in &region.nodes {
                for &v in &self.nodes[node].inputs {
                    counts[v] += 1;
                }
            }
            for &v in &region.results {
                counts[v] += 1;
            }
        }
        counts
    }

    /// Every dimension expression that a node mentions: in its attributes, its results' types and its regions.
    pub fn each_dim(&self, node: Node, f: &mut dyn FnMut(&Dim)) {
        fn of_type(ty: &Type, f: &mut dyn FnMut(&Dim)) {
            match ty {
                Type::Tensor(t) => t.shape.iter().for_each(f),
                Type::Sequence(t) | Type::Optional(t) | Type::Map(_, t) => of_type(t, f),
            }
        }
        let data = &self.nodes[node];
        data.op.dims().into_iter().for_each(&mut *f);
        data.outputs.iter().for_each(|&v| of_type(self.ty(v), f));
        for region in data.op.regions() {
            self.regions[region].params.iter().for_each(|&v| of_type(self.ty(v), f));
            self.regions[region].nodes.iter().for_each(|&n| self.each_dim(n, f));
        }
    }

    /// Replaces every dimension expression of the graph.
    pub fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.nodes.values_mut().for_each(|data| data.op.map_dims(f));
        self.values.values_mut().for_each(|data| data.ty.map_dims(f));
        for (left, right) in &mut self.assumptions {
            (*left, *right) = (f(left), f(right));
        }
        for value in self.values.keys() {
            self.known[value] = self.known[value].as_ref().map(|known| known.map_dims(f));
        }
    }

    /// The body and all regions nested in it, outer before inner.
    pub fn reachable_regions(&self) -> Vec<Region> {
        let mut all = Vec::new();
        let mut stack = vec![self.body()];
        while let Some(region) = stack.pop() {
            all.push(region);
            for &node in &self.regions[region].nodes {
                stack.extend(self.nodes[node].op.regions());
            }
        }
        all
    }

    /// The merged origins of several nodes.
    pub fn merged_origins(&self, nodes: impl IntoIterator<Item = Node>) -> Origins {
        let mut all: Origins = nodes.into_iter().flat_map(|n| self.nodes[n].origins.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A fresh symbol-free count of the graph's entities, for statistics: (nodes in regions, constants).
    pub fn size(&self) -> (usize, usize) {
        let nodes = self.reachable_regions().iter().map(|&r| self.regions[r].nodes.len()).sum();
        (nodes, self.constants.len())
    }
}
