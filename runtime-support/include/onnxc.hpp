/* onnxc.hpp: compiled models in C++17, over onnxc_support.h. Header only.
 *
 *     #include "model.h"
 *     #include "onnxc.hpp"
 *
 *     onnxc::Session session(model, {}, 2);                        a static model on two threads
 *     session.input("x", onnxc::Span(pixels), {1, 3, 224, 224});
 *     session.run();
 *     onnxc::Tensor<const float> y = session.output<float>(0);     until the next run
 *
 * A failure throws onnxc::Error, whose what() names port, axis and numbers; try_run gives its status instead. Sessions
 * are movable and own arena, outputs and threads; inputs are borrowed until run returns. */
#ifndef ONNXC_HPP
#define ONNXC_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "onnxc_support.h"

namespace onnxc {

/* Some elements in a row that belong to somebody else. */
template <class T>
class Span {
public:
    constexpr Span() = default;
    constexpr Span(T *data, std::size_t size) : data_(data), size_(size) {}
    /* Anything with data() and size(): std::vector, std::array, std::span. */
    template <class Container, class = decltype(std::declval<Container &>().data())>
    constexpr explicit Span(Container &container) : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const { return data_; }
    constexpr std::size_t size() const { return size_; }
    constexpr T *begin() const { return data_; }
    constexpr T *end() const { return data_ + size_; }
    constexpr T &operator[](std::size_t index) const { return data_[index]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

template <class Container>
Span(Container &) -> Span<std::remove_pointer_t<decltype(std::declval<Container &>().data())>>;

/* A dense row-major tensor that belongs to somebody else. */
template <class T>
struct Tensor {
    Span<const std::int64_t> shape;
    Span<T> elements;
};

/* A status that is no success. */
class Error : public std::runtime_error {
public:
    Error(int status, const std::string &text) : std::runtime_error(text), status_(status) {}
    int status() const noexcept { return status_; }

private:
    int status_;
};

/* The DLPack type of a C++ type. */
template <class T>
constexpr DLDataType dtype_of() {
    using U = std::remove_cv_t<T>;
    static_assert(std::is_arithmetic_v<U>, "elements are numbers or bool");
    constexpr auto bits = static_cast<std::uint8_t>(sizeof(U) * 8);
    if constexpr (std::is_same_v<U, bool>) {
        return DLDataType{kDLBool, bits, 1};
    } else if constexpr (std::is_floating_point_v<U>) {
        return DLDataType{kDLFloat, bits, 1};
    } else {
        return DLDataType{static_cast<std::uint8_t>(std::is_signed_v<U> ? kDLInt : kDLUInt), bits, 1};
    }
}

inline bool operator==(const DLDataType &a, const DLDataType &b) {
    return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

/* A thread pool that sessions share; its destructor waits for the threads. */
class Pool {
public:
    /* workers counts the calling thread; 0 asks for one per processor. */
    explicit Pool(int workers) {
        onnxc_pool *pool = nullptr;
        if (const int status = onnxc_pool_create(workers, &pool); status != ONNXC_OK) {
            throw Error(status, onnxc_status_message(status));
        }
        pool_.reset(pool);
    }
    int workers() const { return onnxc_pool_workers(pool_.get()); }
    onnxc_pool *get() const { return pool_.get(); }

private:
    struct Destroy {
        void operator()(onnxc_pool *pool) const { onnxc_pool_destroy(pool); }
    };
    std::unique_ptr<onnxc_pool, Destroy> pool_;
};

/* The file of weights of a model that was compiled with `--weights external`; see onnxc_weights_open. */
class Weights {
public:
    Weights(const onnxc_model &model, const std::string &path) : weights_(new onnxc_weights{nullptr, 0}) {
        if (const int status = onnxc_weights_open(&model, path.c_str(), weights_.get()); status != ONNXC_OK) {
            throw Error(status, path + ": " + onnxc_status_message(status));
        }
    }
    const onnxc_weights &get() const { return *weights_; }

private:
    struct Close {
        void operator()(onnxc_weights *weights) const {
            onnxc_weights_close(weights);
            delete weights;
        }
    };
    std::unique_ptr<onnxc_weights, Close> weights_;
};

/* A model with memory of its own. One thread at a time may use it; sessions of one model run at the same time. */
class Session {
public:
    /* dims: a value for each of the model's symbols, none for a static model. threads: 1 is the calling thread alone,
     * 0 one per processor. */
    explicit Session(const onnxc_model &model, const std::vector<std::int64_t> &dims = {}, int threads = 1)
        : model_(&model) {
        check_dims(dims);
        onnxc_session *session = nullptr;
        check(onnxc_session_create(&model, dims.data(), threads, &session));
        session_.reset(session);
    }
    /* On a pool that outlives the session. */
    Session(const onnxc_model &model, const std::vector<std::int64_t> &dims, const Pool &pool) : model_(&model) {
        check_dims(dims);
        onnxc_session *session = nullptr;
        check(onnxc_session_create_on(&model, dims.data(), pool.get(), &session));
        session_.reset(session);
    }

    const onnxc_model &model() const { return *model_; }

    /* Weights of this model that outlive the session. */
    void set_weights(const Weights &weights) {
        onnxc_call &call = *onnxc_session_call(session_.get());
        call.weights = weights.get().data;
        call.weights_bytes = weights.get().bytes;
    }

    /* Plans again for other values of the symbols; inputs and outputs are to be set and read again. */
    void set_dims(const std::vector<std::int64_t> &dims) {
        check_dims(dims);
        check(onnxc_session_set_dims(session_.get(), dims.data()));
    }

    /* An input by its place. Without a shape it has the one that model and dims say. */
    template <class T>
    void input(std::size_t index, Span<T> elements, const std::vector<std::int64_t> &shape = {}) {
        onnxc_value &value = onnxc_session_inputs(session_.get())[port(index, model_->input_count)];
        if (shape.size() > ONNXC_MAX_RANK) {
            throw Error(ONNXC_RANK, onnxc_status_message(ONNXC_RANK));
        }
        if (!shape.empty()) {
            value.tensor.ndim = static_cast<std::int32_t>(shape.size());
            for (std::size_t axis = 0; axis < shape.size(); axis++) {
                value.dims[axis] = shape[axis];
            }
            value.tensor.shape = value.dims;
        }
        std::uint64_t count = 1;
        for (std::int32_t axis = 0; axis < value.tensor.ndim; axis++) {
            count *= static_cast<std::uint64_t>(value.tensor.shape[axis]);
        }
        if (count != elements.size()) {
            throw Error(ONNXC_CAPACITY, "input " + std::to_string(index) + ": " + std::to_string(elements.size()) +
                                            " elements for a shape of " + std::to_string(count));
        }
        value.tensor.dtype = dtype_of<T>();
        value.tensor.data = const_cast<std::remove_cv_t<T> *>(elements.data());
        value.capacity_bytes = elements.size() * sizeof(T);
    }
    /* An input by its name. */
    template <class T>
    void input(std::string_view name, Span<T> elements, const std::vector<std::int64_t> &shape = {}) {
        input(find(name, model_->inputs, model_->input_count), elements, shape);
    }

    /* Runs the model; 0, or a negative status that fault() explains. */
    int try_run() noexcept { return onnxc_session_run(session_.get()); }
    const onnxc_fault &fault() const noexcept { return *onnxc_session_fault(session_.get()); }
    void run() { check(try_run()); }

    /* An output of the last run, until the next one. */
    template <class T>
    Tensor<const T> output(std::size_t index) const {
        const onnxc_value &value = onnxc_session_outputs(session_.get())[port(index, model_->output_count)];
        if (!(value.tensor.dtype == dtype_of<T>())) {
            throw Error(ONNXC_DTYPE, onnxc_status_message(ONNXC_DTYPE));
        }
        std::size_t count = 1;
        for (std::int32_t axis = 0; axis < value.tensor.ndim; axis++) {
            count *= static_cast<std::size_t>(value.tensor.shape[axis]);
        }
        const char *first = static_cast<const char *>(value.tensor.data) + value.tensor.byte_offset;
        return {{value.tensor.shape, static_cast<std::size_t>(value.tensor.ndim)},
                {reinterpret_cast<const T *>(first), count}};
    }
    template <class T>
    Tensor<const T> output(std::string_view name) const {
        return output<T>(find(name, model_->outputs, model_->output_count));
    }

private:
    struct Destroy {
        void operator()(onnxc_session *session) const { onnxc_session_destroy(session); }
    };

    static std::size_t port(std::size_t index, std::uint32_t count) {
        if (index >= count) {
            throw Error(ONNXC_PORT_INDEX, onnxc_status_message(ONNXC_PORT_INDEX));
        }
        return index;
    }
    static std::size_t find(std::string_view name, const onnxc_port *ports, std::uint32_t count) {
        for (std::uint32_t index = 0; index < count; index++) {
            if (name == ports[index].name) {
                return index;
            }
        }
        throw Error(ONNXC_PORT_INDEX, "there is no port named " + std::string(name));
    }
    void check_dims(const std::vector<std::int64_t> &dims) const {
        if (dims.size() != model_->symbol_count) {
            throw Error(ONNXC_DIM_RANGE, "the model has " + std::to_string(model_->symbol_count) + " named dims, not " +
                                             std::to_string(dims.size()));
        }
    }
    void check(int status) const {
        if (status == ONNXC_OK) {
            return;
        }
        std::string text;
        if (session_) {
            const onnxc_fault &about = fault();
            const bool output = about.output != 0;
            const std::uint32_t count = output ? model_->output_count : model_->input_count;
            if (about.port >= 0 && static_cast<std::uint32_t>(about.port) < count) {
                text += output ? "output " : "input ";
                text += (output ? model_->outputs : model_->inputs)[about.port].name;
                text += about.axis >= 0 ? ", axis " + std::to_string(about.axis) + ": " : ": ";
            }
            text += onnxc_status_message(status);
            if (about.expected != -1 || about.actual != -1) {
                text += " (expected " + std::to_string(about.expected) + ", got " + std::to_string(about.actual) + ")";
            }
        } else {
            text = onnxc_status_message(status);
        }
        throw Error(status, text);
    }

    const onnxc_model *model_;
    std::unique_ptr<onnxc_session, Destroy> session_;
};

} // namespace onnxc

#endif
