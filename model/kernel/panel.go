package kernel

// portableSingle implements multiplySingle in portable Go.
func portableSingle(y []float32, yStride int, x []float32, xStride int, w []float32, wStride, rows, panels, inputs int) {
	for p := range panels {
		for r := range rows {
			multiplyAdd((*[Width]float32)(y[r*yStride+p*Width:]), x[r*xStride:][:inputs], w[p*wStride:])
		}
	}
}

// portableHalf implements multiplyHalf in portable Go. It decodes a block of a panel
// once for all rows.
func portableHalf(y []float32, yStride int, x []float32, xStride int, w []uint16, wStride, rows, panels, inputs int) {
	const block = 64
	var decoded [block * Width]float32
	for p := range panels {
		for k := 0; k < inputs; k += block {
			n := min(block, inputs-k)
			for i, h := range w[p*wStride+k*Width:][:n*Width] {
				decoded[i] = Float16frombits(h)
			}
			for r := range rows {
				multiplyAdd((*[Width]float32)(y[r*yStride+p*Width:]), x[r*xStride+k:][:n], decoded[:])
			}
		}
	}
}

// portableBytes implements multiplyBytes in portable Go.
func portableBytes(y []float32, yStride int, in *Input, w []byte, rows int) {
	for g := range in.groups {
		weights := w[g*groupBytes:][:groupBytes]
		for r := range rows {
			at := r*in.groups + g
			x := (*[Group]int16)(in.values[at*Group:])
			var exact [Width]int32
			for k := 0; k < Group; k += 4 {
				x0, x1, x2, x3 := int32(x[k]), int32(x[k+1]), int32(x[k+2]), int32(x[k+3])
				fours := (*[4 * Width]byte)(weights[k*Width:])
				for o := range exact {
					exact[o] += x0*int32(int8(fours[4*o])) + x1*int32(int8(fours[4*o+1])) +
						x2*int32(int8(fours[4*o+2])) + x3*int32(int8(fours[4*o+3]))
				}
			}
			sums, scale := (*[Width]float32)(y[r*yStride:]), in.scales[at]
			for o := range sums {
				both := weightScale(weights, o) * scale
				sums[o] += float32(float32(exact[o]) * both)
			}
		}
	}
}

// multiplyAdd adds x·panel to sums, where panel is [len(x), Width]. It adds the
// products to each sum one by one, in the order of x.
func multiplyAdd(sums *[Width]float32, x, panel []float32) {
	// The registers hold four of the sixteen sums. Each block stays in the first-level
	// cache until all four quarters of the sums have used it.
	const block = 64
	panel = panel[:len(x)*Width]
	for len(x) > 0 {
		n := min(block, len(x))
		xs, weights := x[:n], panel[:n*Width]
		quarter((*[4]float32)(sums[0:]), xs, weights)
		quarter((*[4]float32)(sums[4:]), xs, weights[4:])
		quarter((*[4]float32)(sums[8:]), xs, weights[8:])
		quarter((*[4]float32)(sums[12:]), xs, weights[12:])
		x, panel = x[n:], panel[n*Width:]
	}
}

// quarter computes four of the sums. The weights of these sums come first in every row
// of panel. The conversions to float32 keep the compiler from fusing products with
// additions.
func quarter(sums *[4]float32, x, panel []float32) {
	const last = 3*Width + 4 // number of elements up to the last weight of four inputs
	s0, s1, s2, s3 := sums[0], sums[1], sums[2], sums[3]
	for len(x) >= 4 && len(panel) >= last {
		v, w := (*[4]float32)(x), (*[last]float32)(panel)
		s0 += float32(v[0] * w[0])
		s1 += float32(v[0] * w[1])
		s2 += float32(v[0] * w[2])
		s3 += float32(v[0] * w[3])
		s0 += float32(v[1] * w[Width])
		s1 += float32(v[1] * w[Width+1])
		s2 += float32(v[1] * w[Width+2])
		s3 += float32(v[1] * w[Width+3])
		s0 += float32(v[2] * w[2*Width])
		s1 += float32(v[2] * w[2*Width+1])
		s2 += float32(v[2] * w[2*Width+2])
		s3 += float32(v[2] * w[2*Width+3])
		s0 += float32(v[3] * w[3*Width])
		s1 += float32(v[3] * w[3*Width+1])
		s2 += float32(v[3] * w[3*Width+2])
		s3 += float32(v[3] * w[3*Width+3])
		x = x[4:]
		panel = panel[min(4*Width, len(panel)):]
	}
	for k, v := range x {
		w := (*[4]float32)(panel[k*Width:])
		s0 += float32(v * w[0])
		s1 += float32(v * w[1])
		s2 += float32(v * w[2])
		s3 += float32(v * w[3])
	}
	sums[0], sums[1], sums[2], sums[3] = s0, s1, s2, s3
}
