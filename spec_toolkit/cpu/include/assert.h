// assert that names the thread instead of ending Python. No include guard: <assert.h> has none either.
#undef assert
#ifdef NDEBUG
#define assert(condition) ((void)0)
#else
#define assert(condition) spec_assert((condition) ? true : false, #condition)
#endif
