// Adam on CUDA: one pass over all parameter groups in one launch, a thread a scalar; rows that were not visible can be
// left out.
#include "stage.h"

#include "../math/adam.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kGroups = SPLATLEARN_ADAM_GROUPS_MAX;

template <class S> struct Group {
    AdamRates<S> rates;
    int64_t count, row_width;
    unsigned first_block;
    S *parameter, *m, *v;
    const S *gradient;
    const S *live;  // step_size and root_bias2 in place of those above, or null
};

template <class S> struct Groups {
    Group<S> group[kGroups];
    int n;
    const uint8_t *visible;  // rows, or null
    const int32_t *skip;     // update nothing where it is not 0, or null
};

template <class S> SPLATLEARN_KERNEL __launch_bounds__(kThreads) void adam_kernel(Groups<S> groups) {
    if (groups.skip && *groups.skip) return;
    int which = 0;
    while (which + 1 < groups.n && blockIdx.x >= groups.group[which + 1].first_block) ++which;
    const Group<S> &group = groups.group[which];
    const int64_t i = int64_t(blockIdx.x - group.first_block) * kThreads + threadIdx.x;
    if (i >= group.count || (groups.visible && !groups.visible[i / group.row_width])) return;
    AdamRates<S> rates = group.rates;
    if (group.live) {
        rates.step_size = group.live[0];
        rates.root_bias2 = group.live[1];
    }
    S x = group.parameter[i], m = group.m[i], v = group.v[i];
    adam_update<S>(rates, group.gradient[i], x, m, v);
    group.parameter[i] = x;
    group.m[i] = m;
    group.v[i] = v;
}

template <class S> Group<S> group_of(const splatlearn_Adam &p, unsigned first_block, int64_t rows, const S *live) {
    const AdamRates<S> rates = adam_rates<S>(p.learning_rate, p.beta1, p.beta2, p.eps, p.step);
    return {rates,
            p.count,
            rows > 0 ? p.count / rows : 1,
            first_block,
            static_cast<S *>(p.parameter),
            static_cast<S *>(p.exp_avg),
            static_cast<S *>(p.exp_avg_sq),
            static_cast<const S *>(p.gradient),
            live};
}

template <class S> int update_groups(const splatlearn_AdamGroups &p) {
    if (p.n_groups > kGroups) return kTooMany;
    Groups<S> groups = {};
    int64_t blocks = 0;
    for (int i = 0; i < p.n_groups; ++i) {
        if (p.groups[i].count == 0) continue;
        const S *live = p.rates ? static_cast<const S *>(p.rates) + 2 * i : nullptr;
        groups.group[groups.n++] = group_of<S>(p.groups[i], unsigned(blocks), p.visible ? p.n_rows : 0, live);
        blocks += blocks_for(p.groups[i].count, kThreads);
        if (blocks > INT32_MAX) return kTooMany;
    }
    groups.visible = p.visible;
    groups.skip = p.skip;
    return SPLATLEARN_LAUNCH((adam_kernel<S>), unsigned(blocks), kThreads, stream_of(p.context), groups);
}

}  // namespace

int adam_groups(const splatlearn_AdamGroups &params) {
    return SPLATLEARN_BY_SCALAR(params, params.context, update_groups);
}
int adam(const splatlearn_Adam &params) {
    return adam_groups({params.context, 1, &params, 0, nullptr, nullptr, nullptr});
}
int64_t adam_scratch(const splatlearn_Adam &) { return 0; }
int64_t adam_groups_scratch(const splatlearn_AdamGroups &) { return 0; }

}  // namespace SPLATLEARN_NAMESPACE
