// Made by lookalikes_gen.go. DO NOT EDIT.

package policy

// lookalikes are characters that are taken for ASCII letters and digits. Most
// are from confusables.txt of Unicode Technical Standard #39, Unicode 15.0,
// © Unicode, Inc., used under the Unicode License V3 (unicode.org/license.txt);
// the generator names those that are not. "l" stands for all that is like a
// stroke: capital i, small l and the digit 1.
var lookalikes = [...]struct {
	like  byte
	runes string
}{
	{'2', "ƧƻϨᒿꙄꝚ"},
	{'3', "ƷȜЗҘӠⳌꝪꞫ𝈆"},
	{'4', "Ꮞ"},
	{'5', "Ƽ"},
	{'6', "бᏮⳒ"},
	{'7', "𝈒"},
	{'8', "Ȣȣ"},
	{'9', "ⳊꝮ"},
	{'a', "ɐɑʌΑΔΛαАаᎪᗅᴀ⍶⍺ꓮ"},
	{'b', "ƀƂƃƄɓʙΒβБВЬвѢѣҌҍᏏᏴᑲᑳᖯᗷꓐꞴ"},
	{'c', "¢ȼɔСсҪҫᏟᴄ₡Ⲥⲥꓚꮯ𐐕𐐽🅮🝌"},
	{'d', "ÐĐđƉƌɖɗԁᎠᏧᑯᗞᗪᴅ₫ꓒꓓ"},
	{'e', "ǝɆɇɘəɛɜΕΞΣεЄЕеэєҽҿᎬᴇ℮∃∑⋿ꓰꬲ"},
	{'f', "ƑƒϜքᖴᵮẝꓝꜰꞘꞙꬵ𝈓"},
	{'g', "ƍǤǥɠɡɢԌցᏀᏳᶃꓖ"},
	{'h', "ĦħɥɦʜΗНнћҢһӇӉհᎻᏂᏲᕼⱧⲎꓧꚕ"},
	{'i', "ıɨɩɪιіӏᎥᵻᵼ⍳⍸ꙇꭵ"},
	{'j', "ɈɉͿϳЈјᎫᒍᴊꓙꞲ"},
	{'k', "ƙΚκКкҚҞᏦᴋ₭ⱩⲔꓗꝀ"},
	{'l', "ŁłƖƗƚǀɫɭʟΙІӀӏᏞᒪ∣⏽ⲒⳐꓡꓲ𐐛𝈪"},
	{'m', "ɯΜϺМмӍᎷᗰᴍⲘꓟ"},
	{'n', "ƝƞɳɴΝηπИипոռᵰⲚꓠ𐆎"},
	{'o', "ØøƟɵΘΟθοσОоѲѳӨөՕօᎾᏫᴏᴑ⊖⊝⍬ⲞⲟꓳꝊꝋꬽꬾꭴꮎꮻ𐐄𐐬𝈚🜔"},
	{'p', "ƥΡρРрᏢᑭᴘᵽ⍴Ⲣⲣꓑ"},
	{'q', "ʠԛգզ"},
	{'r', "ƦɍɹɼɽʀЯгяғᎡᏒᖇᴦᵲⲅꓣꭇꭈꮁ𝈖"},
	{'s', "§ƽʂЅѕՏᏕᏚᵴꓢꜱꮪ𐐠𐑈"},
	{'t', "ŦŧƭƮȾʇΤτТтҬᎢᴛᵵ₮⊤⍡⟙Ⲧꓔ🝨"},
	{'u', "ɄʋμυЦцՍսᏌᑌᴜᵾ∪⋃ꓴꞟꭎꭒꮜ"},
	{'v', "ʌνѴѵᏙᐯᴠ∨⋁ꓦꮩ𐆗𝈍🜈"},
	{'w', "ɯωШшѡѽԜԝաᎳᏔᴡ₩ꓪꝡꮃ"},
	{'x', "×ΧχХхҲᕁᕽ᙭᙮╳⤫⤬⨯⨰ⲬꓫꞳ𐆖"},
	{'y', "¥ƴɎɏɣʏΥγλУуҮүҰұᎩᎽᶌỿⲨꓬꭚ"},
	{'z', "ƵƶȤȥʐΖᏃᴢᵶꓜꮓ𐋵"},
}
