// The same two models through onnxc.hpp: sessions with memory of their own, on the calling thread or on a pool.
#include "digit.h"
#include "digits.h"
#include "onnxc.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

namespace {

constexpr std::size_t PIXELS = 64;
constexpr std::size_t RECORD = 65;

int best(onnxc::Span<const float> scores) {
    return static_cast<int>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

int run(const char *path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    const std::size_t count = bytes.size() / RECORD;
    std::vector<std::array<float, PIXELS>> images(count);
    for (std::size_t i = 0; i < count; i++) {
        std::copy_n(&bytes[i * RECORD + 1], PIXELS, images[i].begin());
    }

    onnxc::Session one(digit);
    std::size_t right = 0;
    for (std::size_t i = 0; i < count; i++) {
        one.input("image", onnxc::Span(images[i]));
        one.run();
        right += best(one.output<float>("scores").elements) == bytes[i * RECORD];
    }
    std::cout << "one by one: " << right << " of " << count << " right\n";

    // As many images as there are, sixty at a time, on three threads.
    const onnxc::Pool pool(3);
    onnxc::Session many(digits, {60}, pool);
    std::size_t right_together = 0;
    for (std::size_t first = 0; first + 60 <= count; first += 60) {
        many.input(0, onnxc::Span<const float>(images[first].data(), 60 * PIXELS));
        many.run();
        const onnxc::Tensor<const float> scores = many.output<float>(0);
        for (std::size_t i = 0; i < 60; i++) {
            const onnxc::Span<const float> row(&scores.elements[i * 10], 10);
            right_together += best(row) == bytes[(first + i) * RECORD];
        }
    }
    std::cout << "60 at a time: " << right_together << " of " << count << " right\n";

    // What is wrong is said in words, and as a status.
    bool refused = false;
    try {
        many.input(0, onnxc::Span<const float>(images[0].data(), PIXELS), {1, 1, 4, 16});
        many.run();
    } catch (const onnxc::Error &error) {
        refused = error.status() == ONNXC_DIM;
        std::cout << "refused: " << error.what() << '\n';
    }
    return count == 360 && right * 100 >= 97 * count && right_together == right && refused ? 0 : 1;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::cerr << "usage: read_digits_cpp held_back.bin\n";
        return 2;
    }
    try {
        return run(argv[1]);
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
