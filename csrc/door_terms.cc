// The door for terms: graphs and calls become what csrc/graph.h knows; addresses arrive as whole numbers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "graph.h"
#include "targets.h"

namespace nb = nanobind;

namespace {

using NodeTuple = std::tuple<int, int, std::vector<int32_t>, int32_t, int64_t, double>;
using CoordinateTuple = std::tuple<int, int64_t, int64_t, int64_t>;
using TableTuple = std::tuple<std::uintptr_t, int, std::vector<int64_t>, std::vector<int64_t>, bool>;
using PairTuple = std::tuple<int32_t, int32_t>;

std::uint8_t byte(int value) { return value < 0 || value > 255 ? 255 : static_cast<std::uint8_t>(value); }

qkv::Node node_of(const NodeTuple& given) {
    qkv::Node node{};
    node.op = static_cast<qkv::Op>(byte(std::get<0>(given)));
    node.kind = static_cast<qkv::Kind>(byte(std::get<1>(given)));
    const auto& below = std::get<2>(given);
    if (node.op == qkv::Op::lookup) node.indices = below;
    else if (below.size() > 3) throw qkv::GraphError("a node of an expression graph has more than three operands");
    else for (std::size_t n = 0; n < below.size(); ++n) node.operands[n] = below[n];
    node.which = std::get<3>(given);
    node.whole = std::get<4>(given);
    node.real = std::get<5>(given);
    return node;
}

std::vector<qkv::Parts::Guard> guards_of(const std::vector<PairTuple>& given) {
    std::vector<qkv::Parts::Guard> out;
    for (const auto& [lookup, beyond] : given) out.push_back({lookup, beyond});
    return out;
}

// A graph of one spec, checked.
struct Graph {
    qkv::Graph graph;
};

// Terms of one call, with what keeps their tables alive and memory for looking at them.
class Terms {
  public:
    Terms(std::unique_ptr<qkv::BoundTerms> bound, nb::object alive) : bound_(std::move(bound)), alive_(std::move(alive)) {}

    const qkv::Terms& terms() const { return bound_->terms; }

    int verdict(int64_t shared, int64_t row0, int64_t rows, int64_t key0, int64_t keys) const {
        return static_cast<int>(qkv::keep_verdict(terms(), shared, row0, rows, key0, keys));
    }

    int evaluate(int64_t shared, int64_t row0, int64_t rows, int64_t key0, int64_t keys, std::uintptr_t s, int64_t stride, bool masked) const {
        Memory memory(terms());
        const qkv::Place place{shared, row0, rows, key0, keys};
        if (terms().wide) qkv::target().terms_d(terms(), place, reinterpret_cast<double*>(s), stride, masked, memory.scratch);
        else qkv::target().terms_f(terms(), place, reinterpret_cast<float*>(s), stride, masked, memory.scratch);
        return memory.scratch.outside;
    }

    void backward(int64_t shared, int64_t row0, int64_t rows, int64_t key0, int64_t keys, std::uintptr_t raw, std::uintptr_t ds,
                  int64_t stride, bool masked, const std::vector<std::uintptr_t>& table_grads) const {
        if (table_grads.size() != static_cast<std::size_t>(terms().num_tables)) {
            throw qkv::GraphError("a backward has not one gradient for each table");
        }
        Memory memory(terms());
        const qkv::Place place{shared, row0, rows, key0, keys};
        const auto call = [&]<class T>(T*, auto function) {
            std::vector<T*> grads;
            for (std::uintptr_t grad : table_grads) grads.push_back(reinterpret_cast<T*>(grad));
            function(terms(), place, reinterpret_cast<const T*>(raw), stride, reinterpret_cast<T*>(ds), stride, masked, grads.data(), memory.scratch);
        };
        if (terms().wide) call(static_cast<double*>(nullptr), qkv::target().terms_backward_d);
        else call(static_cast<float*>(nullptr), qkv::target().terms_backward_f);
    }

    int rows(int64_t shared, int64_t row0, int64_t rows, int64_t key0, int64_t keys, std::uintptr_t out, int64_t stride) const {
        Memory memory(terms());
        qkv::target().terms_rows(terms(), {shared, row0, rows, key0, keys}, reinterpret_cast<int32_t*>(out), stride, memory.scratch);
        return memory.scratch.outside;
    }

  private:
    struct Memory {
        explicit Memory(const qkv::Terms& terms)
            : block(static_cast<char*>(std::aligned_alloc(64, (terms.scratch_bytes + 127) / 64 * 64))), scratch{block.get()} {
            if (!block) throw std::bad_alloc();
        }
        struct Free { void operator()(char* at) const { std::free(at); } };
        std::unique_ptr<char, Free> block;
        qkv::Scratch scratch;
    };

    std::unique_ptr<qkv::BoundTerms> bound_;
    nb::object alive_;
};

}  // namespace

// The terms behind a Python object of this module, for the door of the kernels.
const qkv::Terms* terms_of(nb::handle object) { return &nb::cast<const Terms&>(object).terms(); }

void register_terms(nb::module_& m) {
    nb::class_<Graph>(m, "Graph", "Expression graphs of one spec, checked.")
        .def("__init__",
             [](Graph* self, const std::vector<NodeTuple>& nodes, int32_t num_coordinates, int32_t num_tables, int32_t keep,
                int32_t score, int32_t by_score, int32_t row, const std::vector<PairTuple>& gradients,
                const std::vector<PairTuple>& keep_guards, const std::vector<PairTuple>& score_guards,
                const std::vector<PairTuple>& row_guards) {
                 qkv::Parts parts;
                 parts.nodes.reserve(nodes.size());
                 for (const NodeTuple& node : nodes) parts.nodes.push_back(node_of(node));
                 parts.num_coordinates = num_coordinates, parts.num_tables = num_tables;
                 parts.keep = keep, parts.score = score, parts.by_score = by_score, parts.row = row;
                 for (const auto& [lookup, value] : gradients) parts.gradients.push_back({lookup, value});
                 parts.keep_guards = guards_of(keep_guards);
                 parts.score_guards = guards_of(score_guards);
                 parts.row_guards = guards_of(row_guards);
                 new (self) Graph{qkv::Graph(std::move(parts))};
             },
             nb::arg("nodes"), nb::arg("num_coordinates"), nb::arg("num_tables"), nb::arg("keep"), nb::arg("score"),
             nb::arg("by_score"), nb::arg("row"), nb::arg("gradients"), nb::arg("keep_guards"), nb::arg("score_guards"),
             nb::arg("row_guards"))
        .def("bind",
             [](const Graph& self, const std::vector<CoordinateTuple>& coordinates, const std::vector<TableTuple>& tables, bool wide,
                nb::object alive) {
                 std::vector<qkv::Coordinate> places;
                 for (const auto& [role, size, divisor, offset] : coordinates) {
                     places.push_back({static_cast<qkv::Role>(byte(role)), size, divisor, offset});
                 }
                 std::vector<qkv::TableParts> parts;
                 for (const auto& [address, elements, sizes, strides, learn] : tables) {
                     parts.push_back({{reinterpret_cast<const void*>(address), static_cast<qkv::Elements>(byte(elements)), 0}, sizes, strides, learn});
                 }
                 return new Terms(self.graph.bind(std::move(places), std::move(parts), wide), std::move(alive));  // Python owns it
             },
             nb::arg("coordinates"), nb::arg("tables"), nb::arg("wide"), nb::arg("alive"));
    nb::class_<Terms>(m, "Terms", "Terms of one call: programs that kernels run.")
        .def("verdict", &Terms::verdict, nb::arg("shared"), nb::arg("row0"), nb::arg("rows"), nb::arg("key0"), nb::arg("keys"))
        .def("evaluate", &Terms::evaluate, nb::arg("shared"), nb::arg("row0"), nb::arg("rows"), nb::arg("key0"), nb::arg("keys"),
             nb::arg("s"), nb::arg("stride"), nb::arg("masked"))
        .def("backward", &Terms::backward, nb::arg("shared"), nb::arg("row0"), nb::arg("rows"), nb::arg("key0"), nb::arg("keys"),
             nb::arg("raw"), nb::arg("ds"), nb::arg("stride"), nb::arg("masked"), nb::arg("table_grads"))
        .def("rows", &Terms::rows, nb::arg("shared"), nb::arg("row0"), nb::arg("rows"), nb::arg("key0"), nb::arg("keys"),
             nb::arg("out"), nb::arg("stride"))
        .def_prop_ro("masks", [](const Terms& self) { return self.terms().masks(); })
        .def_prop_ro("changes", [](const Terms& self) { return self.terms().changes(); })
        .def_prop_ro("scratch_bytes", [](const Terms& self) { return self.terms().scratch_bytes; });
}
