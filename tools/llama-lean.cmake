# Read by CMake at llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE).
# llama-cpp-python always switches on llama.cpp's "common" library, which only its
# programs need; leaving it out halves the time to compile.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "llama.cpp common library" FORCE)
