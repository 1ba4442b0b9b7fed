// Runs the stages of the CPU library on generated inputs and prints a digest of each result: the same program for every
// processor, without Python.
#include <cstdio>
#include <cstring>
#include <vector>

#include "../csrc/abi.h"

extern "C" {
#define DECLARE(name, Params) int splatlearn_##name(const Params *);
SPLATLEARN_STAGES(DECLARE)
const char *splatlearn_isa_level();
int splatlearn_set_reproducible(int);
}

namespace {

uint64_t state = 1;
double uniform(double low, double high) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * double(state >> 11) * 0x1p-53;
}
template <class S> std::vector<S> uniforms(int64_t count, double low, double high) {
    std::vector<S> out;
    for (int64_t i = 0; i < count; ++i) out.push_back(S(uniform(low, high)));
    return out;
}

template <class T> void say(const char *name, const std::vector<T> &values) {
    uint64_t hash = 14695981039346656037u;
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
    int different = 0;  // so that nobody takes zeros for a result
    for (size_t i = 1; i < values.size(); ++i) different += std::memcmp(&values[i], &values[0], sizeof(T)) != 0;
    std::printf("%s %d %016llx\n", name, different, (unsigned long long)hash);
}

void check(int code) {
    if (code) std::printf("failed: %d\n", code);
}

constexpr int kWidth = 67, kHeight = 45, kCameras = 2;
constexpr int64_t kCount = 301, kRows = kCameras * kCount;

template <class S> void adam(const splatlearn_Context &context) {
    auto p = uniforms<S>(1003, -1, 1), g = uniforms<S>(1003, -1, 1), m = uniforms<S>(1003, -1, 1),
         v = uniforms<S>(1003, 0, 1);
    splatlearn_Adam a = {context, 1003, 12345, 1e-3, 0.9, 0.999, 1e-15, p.data(), g.data(), m.data(), v.data()};
    check(splatlearn_adam(&a));
    say("adam", p);
}

template <class S> void photometric(const splatlearn_Context &context) {
    const int64_t count = int64_t(kCameras) * kWidth * kHeight * 3;
    auto image = uniforms<S>(count, 0, 1), target = uniforms<S>(count, 0, 1);
    std::vector<S> v(count), loss(1);
    std::vector<double> means(2);
    splatlearn_Photometric p = {context, kCameras, kWidth, kHeight, 3, 0, 0.2, image.data(), target.data(), v.data(),
                                &means[0], &means[1], loss.data()};
    check(splatlearn_photometric(&p));
    say("photometric gradient", v);
    say("photometric means", means);
}

template <class S> void draw(const splatlearn_Context &context, int model, int antialiased) {
    auto means = uniforms<S>(kCount * 3, -1.2, 1.2), quats = uniforms<S>(kCount * 4, -1, 1);
    auto scales = uniforms<S>(kCount * 3, -4, -1.5), opacities = uniforms<S>(kCount, -3, 5);
    auto sh0 = uniforms<S>(kCount * 3, -0.5, 1), shN = uniforms<S>(kCount * 45, -0.3, 0.3);
    std::vector<S> viewmats(32), parameters(18), centers(6);
    for (int c = 0; c < kCameras; ++c) {
        for (int i = 0; i < 4; ++i) viewmats[16 * c + 5 * i] = S(1);
        viewmats[16 * c + 11] = S(2.5 + c);
        centers[3 * c + 2] = S(-2.5 - c);
        const double K[9] = {model ? 20. : 60., 0, 33, 0, model ? 20. : 60., 22, 0, 0, 1};
        for (int i = 0; i < 9; ++i) parameters[9 * c + i] = S(K[i]);
    }
    splatlearn_ProjectInputs in = {};
    in.context = context, in.n_cameras = kCameras, in.n_gaussians = kCount, in.width = kWidth, in.height = kHeight;
    in.sh_degree = 3, in.antialiased = antialiased, in.camera_model = model, in.raw = 1;
    in.sh0_stride = 3, in.shN_stride = 45, in.eps2d = 0.3, in.near_plane = 0.01, in.far_plane = 1e10;
    in.alpha_threshold = 1. / 255, in.means = means.data(), in.quats = quats.data(), in.scales = scales.data();
    in.opacities = opacities.data(), in.sh0 = sh0.data(), in.shN = shN.data(), in.viewmats = viewmats.data();
    in.camera_params = parameters.data(), in.camera_centers = centers.data();
    std::vector<S> means2d(kRows * 2), depths(kRows), conics(kRows * 3), opacities2d(kRows), colors(kRows * 3);
    std::vector<int32_t> radii(kRows * 2);
    splatlearn_ProjectForward project = {in,  means2d.data(), depths.data(), conics.data(), opacities2d.data(),
                                         colors.data(), radii.data(), nullptr};
    check(splatlearn_project_forward(&project));
    say("means2d", means2d), say("depths", depths), say("conics", conics), say("opacities2d", opacities2d);
    say("colors", colors), say("radii", radii);

    std::vector<int64_t> row_offsets(kRows + 1), block_offsets(2);
    splatlearn_BinInputs bin = {context, kRows, kCameras, kWidth, kHeight, 1. / 255, means2d.data(), conics.data(),
                                opacities2d.data(), depths.data(), radii.data(), nullptr};
    splatlearn_BinCount counted = {bin, nullptr, row_offsets.data(), block_offsets.data()};
    check(splatlearn_bin_count(&counted));
    const int64_t instances = row_offsets[kRows], pixels = int64_t(kCameras) * kWidth * kHeight;
    const int64_t tiles = kCameras * ((kWidth + 15) / 16) * ((kHeight + 15) / 16);
    std::vector<int64_t> tile_offsets(tiles + 1), slots(instances);
    std::vector<int32_t> row_ids(instances), stops(pixels);
    splatlearn_BinWrite write = {bin, kRows, instances, 0, nullptr, row_offsets.data(), block_offsets.data(),
                                 tile_offsets.data(), row_ids.data(), slots.data(), nullptr};
    check(splatlearn_bin_write(&write));
    say("row_ids", row_ids), say("slots", slots);

    std::vector<S> render(pixels * 3), alphas(pixels), transmittance(pixels);
    auto backgrounds = uniforms<S>(6, 0, 1), v_render = uniforms<S>(pixels * 3, -1, 1),
         v_alphas = uniforms<S>(pixels, -1, 1);
    splatlearn_RasterizeInputs blend = {};
    blend.context = context, blend.n_rows = kRows, blend.n_cameras = kCameras, blend.n_instances = instances;
    blend.width = kWidth, blend.height = kHeight, blend.channels = 3, blend.absgrad = antialiased;
    blend.alpha_threshold = 1. / 255, blend.transmittance_threshold = 1e-4, blend.means2d = means2d.data();
    blend.conics = conics.data(), blend.opacities = opacities2d.data(), blend.colors = colors.data();
    blend.backgrounds = backgrounds.data(), blend.tile_offsets = tile_offsets.data(), blend.row_ids = row_ids.data();
    splatlearn_RasterizeForward forward = {};
    forward.inputs = blend, forward.render = render.data(), forward.alphas = alphas.data();
    forward.transmittance = transmittance.data(), forward.stops = stops.data();
    check(splatlearn_rasterize_forward(&forward));
    say("render", render), say("alphas", alphas), say("stops", stops);

    std::vector<S> rows(instances * 11), v_means2d(kRows * 2), v_abs(kRows * 2), v_conics(kRows * 3),
        v_opacities2d(kRows), v_colors(kRows * 3), v_backgrounds(6);
    splatlearn_RasterizeBackward back = {};
    back.inputs = blend, back.row_offsets = row_offsets.data(), back.slots = slots.data();
    back.transmittance = transmittance.data(), back.stops = stops.data(), back.v_render = v_render.data();
    back.v_alphas = v_alphas.data(), back.instance_rows = rows.data(), back.v_means2d = v_means2d.data();
    back.v_means2d_abs = antialiased ? v_abs.data() : nullptr, back.v_conics = v_conics.data();
    back.v_opacities = v_opacities2d.data(), back.v_colors = v_colors.data();
    back.v_backgrounds = v_backgrounds.data();
    check(splatlearn_rasterize_backward(&back));
    say("v_means2d", v_means2d), say("v_abs", v_abs), say("v_conics", v_conics), say("v_colors", v_colors);
    say("v_opacities2d", v_opacities2d), say("v_backgrounds", v_backgrounds);

    std::vector<S> v_means(kCount * 3), v_quats(kCount * 4), v_scales(kCount * 3), v_opacities(kCount),
        v_sh0(kCount * 3), v_shN(kCount * 45), v_viewmats(32), v_parameters(18), v_centers(6);
    splatlearn_ProjectBackward grad = {};
    grad.inputs = in, grad.radii = radii.data(), grad.colors = colors.data(), grad.v_means2d = v_means2d.data();
    grad.v_conics = v_conics.data(), grad.v_opacities2d = v_opacities2d.data(), grad.v_colors = v_colors.data();
    grad.v_means = v_means.data(), grad.v_quats = v_quats.data(), grad.v_scales = v_scales.data();
    grad.v_opacities = v_opacities.data(), grad.v_sh0 = v_sh0.data(), grad.v_shN = v_shN.data(), grad.n_shN = 15;
    grad.v_viewmats = v_viewmats.data(), grad.v_camera_params = v_parameters.data();
    grad.v_camera_centers = v_centers.data();
    check(splatlearn_project_backward(&grad));
    say("v_means", v_means), say("v_quats", v_quats), say("v_scales", v_scales), say("v_opacities", v_opacities);
    say("v_sh0", v_sh0), say("v_shN", v_shN), say("v_viewmats", v_viewmats), say("v_parameters", v_parameters);
    say("v_centers", v_centers);
}

template <class S> void every_stage() {
    for (int threads = 1; threads < 4; threads += 2) {
        state = 1;
        splatlearn_Context context = {int32_t(sizeof(S)), threads, 0, nullptr, nullptr, 0};
        adam<S>(context);
        photometric<S>(context);
        for (int model = 0; model < 2; ++model)
            for (int antialiased = 0; antialiased < 2; ++antialiased) draw<S>(context, model, antialiased);
    }
}

}  // namespace

int main() {
    if (!splatlearn_set_reproducible(1)) splatlearn_set_reproducible(0);  // a library of a single level
    std::fprintf(stderr, "%s\n", splatlearn_isa_level());
    every_stage<float>();
    every_stage<double>();
    return 0;
}
