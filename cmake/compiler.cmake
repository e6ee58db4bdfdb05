# The compiler: what it must be able to do, and the flags of every file. Says what to install where it cannot.
include(CheckLanguage)

string(CONCAT QKV_WHAT_TO_INSTALL
  "qkv is compiled from C++20 and needs gcc 11 or later, or clang 14 or later:\n"
  "    Debian, Ubuntu:  apt install g++\n"
  "    Fedora, RHEL:    dnf install gcc-c++\n"
  "    Alpine:          apk add g++\n"
  "    Arch:            pacman -S gcc\n"
  "    macOS:           xcode-select --install\n"
  "    conda:           conda install -c conda-forge cxx-compiler\n"
  "    Windows:         use WSL; Microsoft's own compiler lacks the vector types of gcc and clang\n"
  "A compiler that is not found by its usual name is named by the environment variable CXX.")

function(qkv_stop reason)
  # An indented line is shown as it is; others would be filled to paragraphs.
  string(REPLACE "\n" "\n  " text "  ${reason}\n${QKV_WHAT_TO_INSTALL}")
  message(FATAL_ERROR "\n${text}\n")
endfunction()

check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  qkv_stop("There is no C++ compiler here.")
endif()
enable_language(CXX)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

# A number of a version tells less than a few lines that use what qkv uses.
include(CheckCXXSourceCompiles)
if(NOT "cxx_std_20" IN_LIST CMAKE_CXX_COMPILE_FEATURES)
  qkv_stop("${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) does not know C++20.")
endif()
check_cxx_source_compiles("
  #include <span>
  #include <string_view>
  typedef float Vector __attribute__((vector_size(16)));
  typedef int Whole __attribute__((vector_size(16)));
  struct Row { int a; int b; };
  constinit const Row row{.a = 1, .b = 2};
  int main(int count, char**) {
    Vector x = {1, 2, 3, 4};
    x = x > 2.0f ? x * x : -x;
    const Whole whole = __builtin_convertvector(x, Whole);
    const std::span<const Row> rows(&row, 1);
    return std::string_view(\"ab\").starts_with(\"a\") && rows[0].a == count ? whole[0] + 1 : 0;
  }" QKV_COMPILES)
if(NOT QKV_COMPILES)
  qkv_stop("${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) cannot compile qkv's C++20.")
endif()

add_library(qkv_flags INTERFACE)
target_compile_options(qkv_flags INTERFACE -Wall -Wextra $<$<BOOL:${QKV_WERROR}>:-Werror>)

if(QKV_SANITIZE)
  set(CMAKE_REQUIRED_FLAGS -fsanitize=${QKV_SANITIZE})
  string(MAKE_C_IDENTIFIER "QKV_LINKS_WITH_${QKV_SANITIZE}" links)
  check_cxx_source_compiles("int main() { return 0; }" ${links})
  unset(CMAKE_REQUIRED_FLAGS)
  if(NOT ${links})
    message(FATAL_ERROR "This compiler cannot link with -fsanitize=${QKV_SANITIZE}: install its sanitizer libraries "
      "(libasan, libubsan, libtsan; Debian's g++ brings them), or leave QKV_SANITIZE empty (make test SANITIZERS=).")
  endif()
  target_compile_options(qkv_flags INTERFACE
    -fsanitize=${QKV_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(qkv_flags INTERFACE -fsanitize=${QKV_SANITIZE})
endif()
