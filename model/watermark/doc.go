// Package watermark marks generated texts, so that the holder of a secret key can later
// recognise them, and detects the mark.
//
// [Key.Chooser] returns the [model.Chooser] of one text, for the field Choose of
// [model.Params]. [Key.Detect] says whether tokens have the mark of a key. The package is
// pure computation: it has no state, starts no goroutine, and reads no clock and no random
// numbers. A Key may be used by several goroutines at a time, a Chooser by one.
//
// # What callers may rely on
//
//   - Over random keys, a marked token has the distribution from which the sampler would
//     have drawn it, after all its steps, from penalties and temperature to top_p. One marked text cannot be told
//     from an unmarked one without the key.
//   - A token depends only on the key, the seed, the prompt, the text so far and the
//     candidates. An interrupted text continues with the same tokens, wherever the
//     interruption was.
//   - The bits of all choices and scores are the same on every processor.
//   - For a text written without the key, the probability of [Found] is below 10^-6 at
//     any length. This holds for each key that is tried.
//   - [Parameters] names everything that a choice depends on, beside the key. A change of
//     any of it gets another name.
//
// # The scheme
//
// All integers are big-endian.
//
//  1. The salt of a text is the last byte of HMAC-SHA256 under the key of
//     "colophon watermark salt v1\x00", the seed as 64 bits, and each token id of the
//     prompt as 32 bits.
//  2. The context of a token is the three generated tokens before it. The token has the
//     ordinary choice of the sampler if fewer tokens precede it, or if an earlier token of
//     the text had the same context.
//  3. The block of a context has 16 bytes: 1, 0, 0, the salt, and the three token ids as 32
//     bits each. AES-256 encrypts the block. Its key is HMAC-SHA256 under the key of
//     "colophon watermark block v1\x00".
//  4. The encrypted block is the key of AES-128 in counter mode, with a counter of 128
//     bits from 0. Bytes 8t to 8t+7 of its key stream belong to token t. Let r be their
//     first 52 bits. Then u is (r + 1/2) / 2^52.
//  5. Choose the token with the least -ln(u)/weight among those with a weight above 0; of
//     equals, the token with the lowest id. [model.Sampler] defines the weights.
//  6. The score of a text and a salt is the sum of -ln(1-u) over its tokens, except those
//     of which step 2 says that they have the ordinary choice. For n tokens of a text
//     without the mark it has the gamma distribution of shape n.
//  7. Let S be the highest score among the 256 salts. Then p is 1 - (1 - Q(n, S))^256,
//     where Q is the regularised upper incomplete gamma function.
//
// Steps 3 to 6 are the scheme of Scott Aaronson, "Watermarking of Large Language Models"
// (2022), with the context of preceding tokens as in John Kirchenbauer and others, "A
// Watermark for Large Language Models" (2023) and "On the Reliability of Watermarks for
// Large Language Models" (2023). This package deviates as follows:
//
//   - A context counts once per text, in the choice and in the score. Otherwise a phrase
//     that a text repeats would count several times. Then p would be wrong, and the choices
//     would not be independent.
//   - Each text has one of 256 salts. Otherwise two texts with a common context would
//     continue alike, whatever their seeds. The detector tries all salts, and p accounts
//     for that.
//   - The first three tokens are the sampler's, so texts with the same salt differ too.
//   - A block cipher under a secret key takes the place of a hash.
//
// # What the mark does not show
//
// A text with the mark has passages made under the key, to the confidence above. At
// temperature 0.8 it is usually found from 100 tokens. The mark is not unforgeable, and
// not unremovable. A forger with many results or many marked texts can write a text with
// the mark, and a paraphrase removes it. Tokens that have no alternative
// carry no mark, so a text at temperature 0 has none. A negative result proves nothing.
package watermark
